"""Benchmarks by name: their public layouts, what is asked of a model, and its answers."""

from __future__ import annotations

import json

import layouts
import pyarrow
import pyarrow.parquet
import pytest
import tiny
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM

from taskarith.data.documents import ANSWER_ALONE, RowForm
from taskarith.errors import DataError, TaskarithError, UsageError
from taskarith.evaluation.answers import answer_records, ask_part
from taskarith.evaluation.benchmarks import fingerprint_parts, load_benchmark
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.loss import score_samples
from taskarith.spec import BenchmarkRef, parse_benchmark

CHAT = RowForm(apply_chat_template=True)


def load(text, limit=None):
    return {part.name: part for part in load_benchmark(parse_benchmark(text), limit)}


@pytest.fixture
def tofu(tmp_path):
    return layouts.write_tofu(tmp_path / "TOFU")


@pytest.fixture
def muse(tmp_path):
    return layouts.write_muse(tmp_path / "MUSE")


# --- data ------------------------------------------------------------------------------------------------------------


def test_a_name_a_split_and_a_folder_are_read():
    assert parse_benchmark("tofu") == BenchmarkRef("tofu", "forget10", None)
    assert str(parse_benchmark("tofu:forget05=a=b")) == "tofu:forget05=a=b"
    assert str(parse_benchmark("muse-news=copy")) == "muse-news=copy"
    for wrong in ("", "wmdp", "tofu:", "tofu:forget50", "muse-books:forget10", "tofu=", "TOFU"):
        with pytest.raises(UsageError, match="unknown benchmark"):
            parse_benchmark(wrong)


def test_tofu_in_its_own_layout(tofu):
    parts = load(f"tofu={tofu}")
    assert list(parts) == ["forget", "retain", "real_authors", "world_facts"]
    rows = [json.loads(line) for line in (tofu / "forget10_perturbed.json").read_text().splitlines()]
    first = parts["forget"].items[0]
    assert (first.prompt, first.tag) == (f"Question: {rows[0]['question']}\n", "Answer: ")
    assert (first.id, first.text, first.paraphrased) == ("0", rows[0]["answer"], rows[0]["paraphrased_answer"])
    assert first.perturbed == tuple(rows[0]["perturbed_answer"])
    assert [part.new_tokens for part in parts.values()] == [200] * 4
    assert {item.paraphrased for item in parts["world_facts"].items} == {""}
    assert [len(part.items) for part in load(f"tofu={tofu}", 3).values()] == [3] * 4
    assert load(f"tofu={tofu}", 3)["forget"].of == 4


def test_the_holdout_of_tofu_is_read_where_it_is(tmp_path):
    parts = load(f"tofu={layouts.write_tofu(tmp_path / 'T', holdout=True)}")
    assert parts["holdout"].is_scored
    assert parts["holdout"].new_tokens == 0
    assert parts["holdout"].items[0].perturbed == ()


def test_muse_in_its_own_layout(muse):
    parts = load(f"muse-books={muse}")
    assert list(parts) == ["verbmem", "knowmem_forget", "knowmem_retain", "forget", "holdout"]
    assert [part.new_tokens for part in parts.values()] == [128, 32, 32, 0, 0]
    solved = json.loads((muse / "knowmem/retain_qa_icl.json").read_text())
    asked = json.loads((muse / "knowmem/retain_qa.json").read_text())
    assert parts["knowmem_retain"].items[1].prompt == (
        f"Question: {solved[0]['question']}\nAnswer: {solved[0]['answer']}\n\n"
        f"Question: {solved[1]['question']}\nAnswer: {solved[1]['answer']}\n\n"
        f"Question: {asked[1]['question']}\nAnswer: "
    )
    assert parts["holdout"].items[2].text == json.loads((muse / "privleak/holdout.json").read_text())[2]
    (muse / "privleak/holdout.json").unlink()
    assert "holdout" not in load(f"muse-news={muse}")


def test_every_file_format_gives_the_same_benchmark(tofu, muse):
    whole = {name: fingerprint_parts(list(load(spec).values())) for name, spec in _specs(tofu, muse).items()}
    for path in (tofu / "retain_perturbed.json", muse / "knowmem/forget_qa.json"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = rows[0] if isinstance(rows[0], list) else rows
        half = len(rows) // 2  # as the hub keeps it, in shards
        for number, part in enumerate((rows[:half], rows[half:])):
            shard = path.with_name(f"{path.stem}-0000{number}-of-00002.parquet")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), shard)
        path.unlink()
    assert {n: fingerprint_parts(list(load(s).values())) for n, s in _specs(tofu, muse).items()} == whole
    layouts.write_lines(tofu / "retain_perturbed.json", layouts.questions(2, 4, perturbed=2))
    assert fingerprint_parts(list(load(f"tofu={tofu}").values()))["retain"] != whole["tofu"]["retain"]


def _specs(tofu, muse):
    return {"tofu": f"tofu={tofu}", "muse": f"muse-news={muse}"}


def test_the_hub_is_asked_for_the_published_names(monkeypatch):
    asked = []

    def read_hub(reference):
        asked.append(str(reference))
        row = {"question": "q", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["w"]}
        return [row | {"prompt": "x", "gt": "y", "text": "z"}]

    monkeypatch.setattr("taskarith.evaluation.benchmarks.read_hub", read_hub)
    load("tofu:forget05")
    assert asked == [
        f"locuslab/TOFU:{name}:train"
        for name in (
            "forget05_perturbed",
            "retain_perturbed",
            "real_authors_perturbed",
            "world_facts_perturbed",
            "holdout05",
        )
    ]
    asked.clear()
    load("muse-books")
    assert {name.split(":", 1)[0] for name in asked} == {"muse-bench/MUSE-Books"}
    assert sorted(name.split(":", 1)[1] for name in asked) == [
        "knowmem:forget_qa",
        "knowmem:forget_qa_icl",
        "knowmem:retain_qa",
        "knowmem:retain_qa_icl",
        "privleak:forget",
        "privleak:holdout",
        "verbmem:forget",
    ]


def _drop(column):
    def change(rows):
        for row in rows:
            row.pop(column)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("perturbed_answer"), "has no column perturbed_answer; it has question, answer, paraphrased_answer"),
        (_drop("paraphrased_answer"), "has no column paraphrased_answer"),
        (lambda rows: rows.clear(), "is empty"),
        (lambda rows: rows[2].update(answer=" "), "answer of row 2 of .* is empty or no text"),
        (lambda rows: rows[1].update(perturbed_answer=[]), "perturbed_answer of row 1 of .* is not a list of texts"),
        (lambda rows: rows[1].update(perturbed_answer=["a", None]), "perturbed_answer of row 1"),
        (lambda rows: [row.update(index=number // 2) for number, row in enumerate(rows)], "an index twice: 0, 1"),
        (lambda rows: rows[3].pop("question"), "question of row 3 of .* is empty or no text"),
    ],
)
def test_faults_in_the_data_name_file_and_place(tofu, change, message):
    path = tofu / "forget10_perturbed.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    layouts.write_lines(path, rows)
    with pytest.raises(DataError, match=message) as caught:
        load(f"tofu={tofu}")
    assert "forget10_perturbed.json" in caught.value.message


def test_what_is_not_there_is_named(tofu, tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        load(f"tofu={tmp_path / 'gone'}")
    with pytest.raises(DataError, match=r"has no forget01_perturbed.json"):
        load(f"tofu:forget01={tofu}")


# --- a model's answers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.save_model(tmp_path_factory.mktemp("model") / "m", "qwen2", seed=5)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def own_loss(model, prompt, text):
    """The mean loss of an answer and its end token, by transformers."""
    tokenizer = tiny.tokenizer()
    start = tokenizer(prompt).input_ids
    ids = torch.tensor([[*tokenizer(prompt + text).input_ids, tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[:, : len(start)] = -100
    assert ids[0, : len(start)].tolist() == start
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


def records_of(model, part, form=ANSWER_ALONE):
    asked = ask_part(part, tiny.tokenizer(), positions=256, form=form)
    rest = [sample for answers in asked.answers for sample in answers.samples]
    scores = score_samples(model, [*asked.samples, *rest], 8, shrink=False, on_tokens=lambda _: None)
    losses = [score.nll / score.tokens for score in scores]
    rights = {(part.name, sample.id): loss for sample, loss in zip(asked.samples, losses, strict=False)}
    return answer_records("m", asked.answers, rights, losses[len(asked.samples) :])


def test_losses_of_answers_are_those_of_transformers(model, tofu):
    part = load(f"tofu={tofu}")["forget"]
    records = records_of(model, part)
    assert [record["sample"] for record in records] == ["0", "1", "2", "3"]
    for item, record in zip(part.items, records, strict=True):
        assert (record["kind"], record["model"], record["text"]) == ("answer", "m", "forget")
        assert record["loss"] == pytest.approx(own_loss(model, item.prompt, f"Answer: {item.text}"), abs=1e-5)
        assert record["paraphrased_loss"] == pytest.approx(
            own_loss(model, item.prompt, f"Answer: {item.paraphrased}"), abs=1e-5
        )
        assert record["perturbed_losses"] == pytest.approx(
            [own_loss(model, item.prompt, f"Answer: {text}") for text in item.perturbed], abs=1e-5
        )


def test_without_a_paraphrase_the_right_answer_stands_for_it(model, tofu):
    for record in records_of(model, load(f"tofu={tofu}")["real_authors"]):
        assert record["paraphrased_loss"] == record["loss"]
        assert len(record["perturbed_losses"]) == 3


def test_a_chat_template_is_put_around_the_question(model, tofu):
    part = load(f"tofu={tofu}")["forget"]
    record, item = records_of(model, part, CHAT)[0], part.items[0]
    tokenizer = tiny.tokenizer()
    prompt = f"<|user|>{item.question}<|end|><|assistant|>"
    ids = tokenizer(prompt + item.text + "<|end|>", add_special_tokens=False).input_ids
    start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids))) / (len(ids) - start)
    assert record["loss"] == pytest.approx(expected, abs=1e-5)
    bare = tiny.tokenizer()
    bare.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        ask_part(part, bare, positions=None, form=CHAT)


def test_the_generated_answer_follows_the_same_prompt(tofu):
    part = load(f"tofu={tofu}")["retain"]
    asked = ask_part(part, tiny.tokenizer(), positions=1000)
    for item, prompt in zip(part.items, asked.prompts, strict=True):
        assert prompt.text == item.prompt
        assert (prompt.reference, prompt.new_tokens, prompt.ends) == (item.text, 200, ())


def test_a_long_true_continuation_is_cut_to_what_is_generated(muse):
    long = " " + tiny.text(60, 4).strip()
    path = muse / "verbmem/forget.json"
    path.write_text(json.dumps([{"prompt": "The river", "gt": long}]), encoding="utf-8")
    prompt = ask_part(load(f"muse-books={muse}")["verbmem"], tiny.tokenizer(), positions=None, form=CHAT).prompts[0]
    assert prompt.text == "The river"
    assert long.startswith(prompt.reference)
    assert len(tiny.tokenizer()(prompt.reference).input_ids) == 128


def test_whole_texts_are_scored_whole_and_have_no_end_token(muse):
    part = load(f"muse-books={muse}")["holdout"]
    asked = ask_part(part, tiny.tokenizer(), positions=256)
    assert [sample.id for sample in asked.samples] == ["0", "1", "2"]
    assert [tiny.tokenizer().decode(sample.input_ids) for sample in asked.samples] == [i.text for i in part.items]
    assert not asked.prompts
    assert not asked.answers


def test_what_is_longer_than_the_context_is_refused_by_name(tofu):
    with pytest.raises(DataError, match=r"4 samples of retain are longer than the 200 positions .* \d: 2\d\d tokens"):
        ask_part(load(f"tofu={tofu}")["retain"], tiny.tokenizer(), positions=200)


class Notes:
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.mark.parametrize("bos", [False, True])
def test_what_of_muse_is_longer_than_the_context_is_cut(muse, bos):
    tokenizer, listener = tiny.tokenizer(), Notes()
    if bos:
        tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
        named = [("<|begin|>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", None, named)
    for name, positions in (("holdout", 7), ("knowmem_retain", 52), ("verbmem", 132)):
        part = load(f"muse-books={muse}")[name]
        whole, cut = (ask_part(part, tokenizer, positions=limit, listener=listener) for limit in (None, positions))
        assert [sample.input_ids for sample in cut.samples] == [sample.input_ids[:7] for sample in whole.samples]
        room = positions - part.new_tokens
        for long, short in zip(whole.prompts, cut.prompts, strict=True):
            assert len(long.input_ids) > room
            assert short.input_ids == (*long.input_ids[:bos], *long.input_ids[bos - room :])
            assert short.text == tokenizer.decode(short.input_ids)
            assert (short.reference, short.ends) == (long.reference, long.ends)
    assert listener.notes[0] == (
        "holdout: 3 of 3 texts are longer than the 7 positions of the model; the first 7 tokens are taken"
    )
    assert listener.notes[1].endswith("longer than the 52 positions of the model; the last tokens, up to 20, are shown")
    ask_part(load(f"muse-books={muse}")["holdout"], tokenizer, positions=500, listener=listener)
    assert len(listener.notes) == 3
    with pytest.raises(DataError, match="samples of verbmem are longer than the 128 positions"):
        ask_part(load(f"muse-books={muse}")["verbmem"], tokenizer, positions=128)


def test_a_continuation_ends_where_its_prompt_says(model, muse):
    part = load(f"muse-books={muse}")["knowmem_forget"]
    prompts = list(ask_part(part, tiny.tokenizer(), positions=256).prompts)
    assert {prompt.ends for prompt in prompts} == {("\n\n", "\nQuestion", "Question:")}

    def run(ends):
        asked = [type(p)(p.id, p.input_ids, p.text, p.reference, p.new_tokens, ends) for p in prompts]
        options = {"max_new_tokens": 12, "end_ids": (), "batch_size": 2, "shrink": False}
        return continue_greedily(model, tiny.tokenizer(), asked, on_tokens=lambda _: None, **options)

    whole = run(())
    end = whole[0][3:5]
    assert run((end, "never there"))[0] == whole[0][: whole[0].index(end)]


def test_errors_are_taskariths_own(tofu):
    (tofu / "retain_perturbed.json").write_text("{", encoding="utf-8")
    with pytest.raises(TaskarithError, match="is not JSON"):
        load(f"tofu={tofu}")
