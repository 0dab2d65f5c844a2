"""Benchmarks as one model sees them: losses of answers, prompts, and what is cut."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from benchmark_data import load
from tokenizers import processors
from transformers import AutoModelForCausalLM

from taskarith.data.documents import ANSWER_ALONE, RowForm
from taskarith.errors import DataError
from taskarith.evaluation.answers import answer_records, ask_part
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.loss import score_samples

CHAT = RowForm(apply_chat_template=True)


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
    scores = score_samples(model, [*asked.samples, *rest], Batching(8))
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
    with pytest.raises(
        DataError, match=r"4 samples of retain are longer than the model's 200 positions .* \d: 2\d\d tokens"
    ):
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
        "holdout: 3 of 3 texts are longer than the model's 7 positions; the first 7 tokens are used"
    )
    assert listener.notes[1].endswith("longer than the model's 52 positions; up to 20 of their last tokens are used")
    ask_part(load(f"muse-books={muse}")["holdout"], tokenizer, positions=500, listener=listener)
    assert len(listener.notes) == 3
    with pytest.raises(DataError, match="samples of verbmem are longer than the model's 128 positions"):
        ask_part(load(f"muse-books={muse}")["verbmem"], tokenizer, positions=128)


def test_a_continuation_ends_where_its_prompt_says(model, muse):
    part = load(f"muse-books={muse}")["knowmem_forget"]
    prompts = list(ask_part(part, tiny.tokenizer(), positions=256).prompts)
    assert {prompt.ends for prompt in prompts} == {("\n\n", "\nQuestion", "Question:")}

    def run(ends):
        asked = [type(p)(p.id, p.input_ids, p.text, p.reference, p.new_tokens, ends) for p in prompts]
        return continue_greedily(model, tiny.tokenizer(), asked, Batching(2), max_new_tokens=12, end_ids=())

    whole = run(())
    end = whole[0][3:5]
    assert run((end, "never there"))[0] == whole[0][: whole[0].index(end)]
