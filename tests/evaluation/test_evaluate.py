"""Evaluation: its numbers are the model's own, whatever the batch, and follow from the records alone."""

import gc
import json
import math
import random
import threading
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from taskarith.checkpoints.provenance import read_provenance
from taskarith.checkpoints.team import Team
from taskarith.data.load import load_data
from taskarith.data.tokens import Sample, tokenize
from taskarith.errors import CheckpointError, DataError, TaskarithError, UsageError
from taskarith.evaluation import models
from taskarith.evaluation.batches import batch_start, in_batches
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.generation import Prompt, continue_greedily, make_prompts
from taskarith.evaluation.loss import keep_states, score_samples, split_model
from taskarith.evaluation.metrics.divergence import agreement, kl_divergence
from taskarith.evaluation.metrics.membership import zlib_bytes
from taskarith.evaluation.metrics.rouge import rouge_l
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.run import row_name
from taskarith.evaluation.score import make_scores
from taskarith.evaluation.score import score as score_stored
from taskarith.report.scores import score_tables
from taskarith.report.tables import short_names

SMALL = {"block_size": 48, "prompts": 3, "prompt_tokens": 8, "continuation_tokens": 12}
LENGTHS = [40, 2, 17, 40, 5, 33, 9, 26, 3]


class Notes:
    def __init__(self):
        self.notes, self.shares = [], []

    def progress(self, what, done, total):
        assert what.startswith("evaluating | ")
        self.shares.append(done / total)

    def note(self, message):
        self.notes.append(message)


def silent(_count):
    return None


def values(evaluation, model, text):
    """All numbers of one model on one text, without intervals."""
    return {name: number.value for name, number in evaluation.scores.by_text[model][text].items()}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def random_samples():
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1, tiny.VOCABULARY) for _ in range(length)) for length in LENGTHS]
    return [Sample(f"s{n}", row, prompt_length=n % 2 * (len(row) // 2)) for n, row in enumerate(ids)]


def own_scores(model, sample):
    """The loss that transformers calculates, as a sum, and the first choices counted from the logits."""
    ids = torch.tensor([sample.input_ids])
    labels = ids.clone()
    labels[:, : sample.prompt_length] = -100
    with torch.no_grad():
        output = model(input_ids=ids, labels=labels)
    start = max(sample.prompt_length, 1)
    tokens = len(sample.input_ids) - start
    choices = output.logits[0, start - 1 : -1].argmax(-1)
    return float(output.loss) * tokens, tokens, int((choices == ids[0, start:]).sum())


@pytest.fixture(scope="module", params=tiny.KINDS)
def any_model(request, tmp_path_factory):
    return load(tiny.save_model(tmp_path_factory.mktemp(request.param) / "m", request.param, seed=3))


def gemma():
    sizes = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = Gemma2Config(
        **sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.model.embed_tokens.weight.data.mul_(20)  # so that the cap is felt
    return model


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_loss_is_the_models_own(any_model, batch_size):
    samples = random_samples()
    scores = score_samples(any_model, samples, batch_size, shrink=False, on_tokens=silent)
    for sample, score in zip(samples, scores, strict=True):
        nll, tokens, correct = own_scores(any_model, sample)
        assert (score.tokens, score.correct) == (tokens, correct)
        assert score.nll / tokens == pytest.approx(nll / tokens, abs=1e-5)


def test_loss_of_a_model_that_caps_its_logits_is_its_own():
    model, samples = gemma(), random_samples()
    scores = score_samples(model, samples, 4, shrink=False, on_tokens=silent)
    for sample, score in zip(samples, scores, strict=True):
        nll, tokens, correct = own_scores(model, sample)
        assert (score.tokens, score.correct) == (tokens, correct)
        assert score.nll / tokens == pytest.approx(nll / tokens, abs=1e-5)


def test_loss_in_small_chunks_of_logits_is_the_same(any_model, monkeypatch):
    samples = random_samples()
    whole = score_samples(any_model, samples, 8, shrink=False, on_tokens=silent)
    monkeypatch.setattr("taskarith.evaluation.loss._CPU_CHUNK", 3 * tiny.VOCABULARY)
    pieces = score_samples(any_model, samples, 8, shrink=False, on_tokens=silent)
    assert [(p.tokens, p.correct) for p in pieces] == [(w.tokens, w.correct) for w in whole]
    assert [p.nll for p in pieces] == pytest.approx([w.nll for w in whole], rel=1e-6)


def distributions(model, sample):
    """Log-probabilities before each scored token in float64, and those tokens."""
    ids = torch.tensor([sample.input_ids])
    start = max(sample.prompt_length, 1)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
    return logits.double().log_softmax(-1), ids[0, start:]


def test_every_token_is_recorded_with_its_z_score(any_model, monkeypatch):
    monkeypatch.setattr("taskarith.evaluation.loss._CPU_CHUNK", 7 * tiny.VOCABULARY)
    samples = random_samples()
    for sample, found in zip(
        samples, score_samples(any_model, samples, 4, shrink=False, on_tokens=silent), strict=True
    ):
        log, tokens = distributions(any_model, sample)
        own = log.gather(-1, tokens[:, None])[:, 0]
        mean = (log.exp() * log).sum(-1)
        spread = (log.exp() * (log - mean[:, None]) ** 2).sum(-1).sqrt()
        assert found.losses == pytest.approx(-own.numpy(), abs=1e-5)
        assert found.z_scores == pytest.approx(((own - mean) / spread).numpy(), abs=1e-4)
        assert (found.hits == (log.argmax(-1) == tokens).numpy()).all()
        assert (found.kl, found.agreed) == (None, None)


def compared(model, reference, samples, batch_size=4):
    """Scores of a model beside another, of which only states and head are kept."""
    parts, states = split_model(reference, samples[0]), {}
    score_samples(reference, samples, batch_size, shrink=False, on_tokens=silent, halves=parts, keep=states)
    kept = keep_states(parts, states, batch_size)
    return score_samples(model, samples, batch_size, shrink=False, on_tokens=silent, reference=kept)


def test_divergence_is_that_of_the_whole_distributions(phi, phi_tuned):
    model, reference, samples = load(phi_tuned), load(phi), random_samples()
    for sample, found in zip(samples, compared(model, reference, samples), strict=True):
        here, there = (distributions(each, sample)[0].numpy() for each in (model, reference))
        assert found.kl == pytest.approx(kl_divergence(there, here).sum(), rel=1e-3, abs=1e-6)
        assert found.agreed == agreement(there, here).sum()
    assert any(found.kl > 1e-3 for found in compared(model, reference, samples))


def test_a_model_does_not_diverge_from_itself(any_model):
    samples = random_samples()
    assert all((f.kl, f.agreed) == (0, f.tokens) for f in compared(any_model, any_model, samples))


def test_z_scores_are_finite_where_a_model_is_certain_or_excludes(phi):
    model, samples = load(phi), random_samples()
    model.lm_head.bias.data[7] = 1e4
    for found in score_samples(model, samples, 4, shrink=False, on_tokens=silent):
        assert np.isfinite(found.z_scores).all()
        assert found.z_scores.min() < -1e5  # a loss of 1e4 by a deviation of at least 1e-3
    model.lm_head.bias.data[7] = -math.inf  # which no sample asks for
    asked = [sample for sample in samples if 7 not in sample.input_ids[1:]]
    for found in score_samples(model, asked, 4, shrink=False, on_tokens=silent):
        assert np.isfinite(found.z_scores).all()
        assert np.abs(found.z_scores).max() < 100


def random_prompts():
    return [Prompt(sample.id, sample.input_ids, "", "") for sample in random_samples()]


def continuations(model, batch_size, end_ids=(), prompts=None):
    return continue_greedily(
        model,
        tiny.tokenizer(),
        prompts or random_prompts(),
        max_new_tokens=12,
        end_ids=end_ids,
        batch_size=batch_size,
        shrink=False,
        on_tokens=silent,
    )


def greedy_by_hand(model, ids, steps):
    ids = torch.tensor([ids])
    start = ids.shape[1]
    for _ in range(steps):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return tiny.tokenizer().decode(ids[0, start:].tolist(), skip_special_tokens=True)


def test_continuations_do_not_depend_on_the_batch(any_model):
    alone = continuations(any_model, 1)
    assert continuations(any_model, 8) == alone
    assert len(set(alone)) > 1
    assert alone[1] == greedy_by_hand(any_model, random_prompts()[1].input_ids, 12)


def constant_model(folder, token):
    """A Phi that expects one token wherever it is."""
    tiny.save_model(folder)
    model = load(folder)
    model.lm_head.bias.data[token] = 100.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def salt(tmp_path_factory):
    token = tiny.tokenizer()(" salt").input_ids
    assert len(token) == 1
    return constant_model(tmp_path_factory.mktemp("salt") / "m", token[0])


def test_a_model_that_knows_a_text_reproduces_it(salt, tmp_path):
    (tmp_path / "salt.txt").write_text(" salt" * 100, encoding="utf-8")
    evaluation = evaluate([str(salt)], {"salt": str(tmp_path / "salt.txt")}, **SMALL)
    found = values(evaluation, str(salt), "salt")
    assert found["loss"] == pytest.approx(0, abs=1e-6)
    assert found["perplexity"] == pytest.approx(1, abs=1e-6)
    names = ("accuracy", "rouge_l_f1", "rouge_l_recall", "verbatim", "exact_memorisation", "extraction_strength")
    assert [found[name] for name in names] == [1] * 6
    tokens = [record["tokens"] for record in evaluation.records if record["kind"] == "loss"]
    assert tokens == [47, 47, 3]  # three blocks of 48, 48 and 4 tokens, the first of each unscored
    assert evaluation.scores.by_text[str(salt)]["salt"]["rouge_l_f1"].n == 3


def test_a_continuation_ends_before_an_end_token(salt):
    model, token = load(salt), tiny.tokenizer()(" salt").input_ids[0]
    assert continuations(model, 4) == [" salt" * 12] * len(LENGTHS)
    assert continuations(model, 4, end_ids={token, 5}) == [""] * len(LENGTHS)


def test_end_tokens_are_the_generation_configurations(salt, tmp_path, book):
    model = tmp_path / "m"
    constant_model(model, 7)
    (model / "generation_config.json").write_text('{"eos_token_id": [7, 3]}')
    records = evaluate([str(model)], {"book": str(book)}, **SMALL).records
    assert {record["continuation"] for record in records if record["kind"] == "continuation"} == {""}


def test_sampling_and_penalties_of_a_checkpoint_are_not_used(phi, tmp_path, book):
    plain = evaluate([str(phi)], {"book": str(book)}, **SMALL)
    model = tiny.save_model(tmp_path / "m")
    odd = {"do_sample": True, "temperature": 9.0, "top_k": 3, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    odd |= {"num_beams": 4, "max_length": 5, "min_new_tokens": 3, "suppress_tokens": [1, 2], "eos_token_id": 0}
    (model / "generation_config.json").write_text(json.dumps(odd))
    assert strip(evaluate([str(model)], {"book": str(book)}, **SMALL)) == strip(plain)


def strip(evaluation, row=None):
    """Return the records of all rows or of one, without the row's name and what depends on other rows."""
    return [
        {key: value for key, value in record.items() if key != "model"}
        for record in evaluation.records
        if row in {None, record["model"]} and record["kind"] != "divergence"
    ]


# --- prompts ---------------------------------------------------------------------------------------------------------


def prompts_of(path, prompts=3, prompt_tokens=8, continuation_tokens=12, tokenizer=None):
    data, tokenizer = load_data(str(path)), tokenizer or tiny.tokenizer()
    samples = tokenize(data, tokenizer, 64)
    sizes = {"prompt_tokens": prompt_tokens, "continuation_tokens": continuation_tokens}
    return make_prompts(data, samples, tokenizer, prompts=prompts, **sizes)


def test_windows_spread_over_a_text_from_end_to_end(book):
    tokenizer = tiny.tokenizer()
    ids = tokenizer(book.read_text(encoding="utf-8")).input_ids
    made = prompts_of(book, prompts=5)
    last = len(ids) - 20
    starts = [0, last // 4, last // 2, 3 * last // 4, last]
    assert [prompt.id for prompt in made] == [f"book.txt@{start}" for start in starts]
    assert [prompt.input_ids for prompt in made] == [tuple(ids[start : start + 8]) for start in starts]
    assert [prompt.reference for prompt in made] == [tokenizer.decode(ids[s + 8 : s + 20]) for s in starts]


def test_windows_start_with_what_the_tokenizer_puts_before_texts(book):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|end|>"})
    tokenizer.add_bos_token = True
    assert tokenizer("river").input_ids[0] == 0
    first = prompts_of(book, tokenizer=tokenizer)[0]
    assert len(first.input_ids) == 9
    assert first.input_ids[0] == 0


def test_there_are_never_more_prompts_than_windows(tmp_path):
    text = tmp_path / "short.txt"
    ids = tiny.tokenizer()(tiny.text(3)).input_ids[:22]
    text.write_text(tiny.tokenizer().decode(ids), encoding="utf-8")
    assert [prompt.id for prompt in prompts_of(text, prompts=16)] == ["short.txt@0", "short.txt@1", "short.txt@2"]
    assert len(prompts_of(text, prompts=1)) == 1
    assert prompts_of(text, prompts=0) == []
    with pytest.raises(DataError, match="at most 22 tokens in a row, too few for a prompt of 8"):
        prompts_of(text, continuation_tokens=15)


def test_windows_of_rows_of_text_never_cross_a_row(tmp_path):
    rows = [tiny.text(3, seed) for seed in range(6)] + ["river"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    made = prompts_of(path, prompts=9)
    assert len({prompt.id for prompt in made}) == 9
    for prompt in made:
        row = rows[int(prompt.id.split(":")[1].split("@")[0]) - 1]
        assert tiny.tokenizer().decode(list(prompt.input_ids)) + prompt.reference in row


def test_rows_with_prompts_give_them_and_their_completions(tmp_path):
    rows = [{"prompt": f"River {n}:", "completion": " salt" * (n + 1)} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = prompts_of(path, prompts=4, continuation_tokens=5)
    assert [prompt.id for prompt in made] == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:5", "rows.jsonl:8"]
    assert [tiny.tokenizer().decode(list(prompt.input_ids)) for prompt in made[:2]] == ["River 0:", "River 2:"]
    assert [prompt.reference for prompt in made] == [" salt", " salt" * 3, " salt" * 5, " salt" * 5]


def test_chats_give_the_template_up_to_the_answer(tmp_path):
    chat = [{"role": "user", "content": "Which road?"}, {"role": "assistant", "content": "The north road"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": chat}), encoding="utf-8")
    (prompt,) = prompts_of(path)
    assert tiny.tokenizer().decode(list(prompt.input_ids)) == "<|user|>Which road?<|end|><|assistant|>"
    assert prompt.reference == "The north road"


def test_a_row_without_a_prompt_is_refused_for_continuations_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "", "completion": "river road"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1 has an empty prompt"):
        prompts_of(path)
    assert prompts_of(path, prompts=0) == []


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_shrink_when_memory_is_short_and_keep_the_order():
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [index * 10 for index in batch]

    assert in_batches([3, 9, 1, 9, 5, 7], run, 6, shrink=True) == [0, 10, 20, 30, 40, 50]
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def together(size, call):
    """What each of several processes returns or raises, as threads that meet in ``gather``."""
    told, meet, results = [None] * size, threading.Barrier(size, timeout=20), [None] * size

    def work(rank):
        def gather(mine):
            told[rank] = mine
            meet.wait()
            all_of_them = list(told)
            meet.wait()
            return all_of_them

        try:
            results[rank] = call(Team(rank, size, gather=gather))
        except TaskarithError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_processes_share_batches_that_do_not_depend_on_their_number(size):
    batches = []

    def run(batch):
        batches.append(tuple(batch))
        return [index * 10 for index in batch]

    lengths = [3, 9, 1, 9, 5, 7, 2]
    found = together(size, lambda team: in_batches(lengths, run, 2, shrink=True, team=team))
    assert found == [[0, 10, 20, 30, 40, 50, 60]] * size
    assert sorted(batches) == [(0, 6), (1, 3), (2,), (5, 4)]


def test_the_failure_of_one_process_is_that_of_all():
    def run(batch):
        if 0 in batch:
            raise DataError("sample 0 is broken", "Mend it.")
        return batch

    found = together(3, lambda team: in_batches([3, 2, 1], run, 1, shrink=True, team=team))
    assert [error.message for error in found] == ["sample 0 is broken"] * 3


def test_out_of_memory_is_said_where_the_batch_is_given_or_one():
    def run(batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(TaskarithError, match="out of memory with a batch of 2") as caught:
        in_batches([1, 2], run, 2, shrink=False)
    assert "--batch-size auto" in caught.value.hint
    with pytest.raises(TaskarithError, match="out of memory with a batch of 1"):
        in_batches([1, 2], run, 2, shrink=True)


def test_a_gpu_starts_with_what_half_of_its_free_memory_holds(monkeypatch):
    config = tiny.configuration("llama")
    model = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=config)
    free = 2 * 2 * 32 * (16 + 2 * 2) * 100 * 7  # twice the bytes of seven sequences of 100 tokens, 2 layers of 32 wide
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * 2**30))
    assert batch_start(model, 100, cached=True) == 7
    assert batch_start(model, 10**6, cached=True) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (40 * 2**30, 80 * 2**30))
    assert batch_start(model, 100, cached=True) == 256
    assert batch_start(model, 256, cached=False) == 64
    assert batch_start(SimpleNamespace(device=torch.device("cpu")), 256, cached=False) == 4


def test_other_failures_pass():
    def run(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        in_batches([1, 2], run, 2, shrink=True)


# --- records ---------------------------------------------------------------------------------------------------------


def record(nll, tokens, correct, sample="s"):
    return {
        "kind": "loss",
        "model": "m",
        "text": "t",
        "sample": sample,
        "nll": nll,
        "tokens": tokens,
        "correct": correct,
    }


def scores_of(*records):
    return make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})


def test_tokens_weigh_the_same_whichever_sample_they_are_in():
    found = scores_of(record(6.0, 3, 1), record(1.0, 1, 1, "r")).by_text["m"]["t"]
    assert (found["loss"].value, found["perplexity"].value) == (1.75, math.exp(1.75))
    assert found["accuracy"].value == 0.5
    assert found.keys() == {"loss", "perplexity", "accuracy"}  # the others need more of a record


def test_an_overflowing_perplexity_is_infinite_and_null_in_json():
    scores = scores_of(record(8000.0, 10, 0))
    assert scores.by_text["m"]["t"]["perplexity"].value == math.inf
    written = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert written["scores"]["m"]["t"]["perplexity"]["value"] is None
    assert written["scores"]["m"]["t"]["loss"]["value"] == 800
    assert "inf" in score_tables(scores)[0].rows[0][2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "one.txt").write_text(tiny.text(20), encoding="utf-8")
    (folder / "two.txt").write_text(tiny.text(9, 7), encoding="utf-8")
    return {"one": str(folder / "one.txt"), "two": str(folder / "two.txt")}


@pytest.fixture(scope="module")
def published(phi, phi_tuned, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "out"
    notes = Notes()
    return evaluate([str(phi), str(phi_tuned)], texts, **SMALL, output_dir=folder, listener=notes), folder, notes


def test_all_numbers_follow_from_the_records_alone(published):
    evaluation, folder, _ = published
    with (folder / "records.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert records == evaluation.records
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results == json.loads(json.dumps(evaluation.scores.to_json()))
    assert score_stored([folder]) == evaluation.scores
    random.Random(0).shuffle(records)
    again = scores_of(*records)
    assert (again.by_text, again.overall) == (evaluation.scores.by_text, evaluation.scores.overall)
    for line in records:
        if line["kind"] == "continuation":
            rouge = rouge_l(line["reference"], line["continuation"])
            assert (line["rouge_l_f1"], line["rouge_l_recall"]) == (rouge.f1, rouge.recall)


def test_scores_are_those_of_each_model_and_text_alone(published, phi_tuned, texts):
    evaluation, _, _ = published
    alone = values(evaluate([str(phi_tuned)], {"two": texts["two"]}, **SMALL, batch_size=1), str(phi_tuned), "two")
    together = values(evaluation, str(phi_tuned), "two")
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, abs=2e-4 if name == "perplexity" else 1e-5), name


def test_loss_of_a_text_is_the_token_mean_over_its_blocks(published, phi, texts):
    evaluation, _, _ = published
    model, tokenizer = load(phi), AutoTokenizer.from_pretrained(phi)
    own = [own_scores(model, sample) for sample in tokenize(load_data(texts["one"]), tokenizer, 48)]
    found, tokens = values(evaluation, str(phi), "one"), sum(tokens for _, tokens, _ in own)
    assert found["loss"] == pytest.approx(sum(nll for nll, _, _ in own) / tokens, abs=1e-5)
    assert found["accuracy"] == sum(correct for _, _, correct in own) / tokens


def test_a_second_run_writes_the_same_bytes(published, phi, phi_tuned, texts, tmp_path):
    _, folder, _ = published
    evaluate([str(phi), str(phi_tuned)], texts, **SMALL, output_dir=tmp_path / "again")
    for name in ("results.json", "records.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_provenance_names_models_data_and_arguments(published, phi, texts):
    _, folder, notes = published
    written = read_provenance(folder)
    assert written["models"][0]["name"] == str(phi)
    assert written["models"][0]["dtype"] == "float32"
    assert len(written["models"][1]["fingerprint"]) == 32
    one = written["data"]["one"]
    assert (folder / one["spec"]).resolve() == Path(texts["one"])
    assert one["fingerprint"] == load_data(texts["one"]).fingerprint
    assert written["arguments"]["prompt_tokens"] == 8
    assert written["edit"] is None
    assert notes.shares == sorted(notes.shares)
    assert notes.shares[-1] == 1.0


def test_tables_are_compact_first_and_then_complete(published, phi, phi_tuned):
    evaluation, _, _ = published
    tables, beside = score_tables(evaluation.scores), f"; KL and agreement beside {phi.name}"
    assert [table.title for table in tables] == [
        "one: 4 samples, 3 prompts", f"one: what is remembered{beside}",
        "two: 2 samples, 3 prompts", f"two: what is remembered{beside}",
    ]  # fmt: skip
    assert tables[0].columns[:4] == ("model", "loss", "perplexity", "top-1")
    loss = evaluation.scores.by_text[str(phi_tuned)]["one"]["loss"]
    assert tables[0].rows[1][:2] == (phi_tuned.name, f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]")
    assert tables[1].columns[3:] == ("KL", "agreement")
    assert tables[1].rows[0][3:] == ("-", "-")
    assert short_names(["a/base", "b/SmolLM2-135M-Instruct alpha=0.5"])["b/SmolLM2-135M-Instruct alpha=0.5"] == (
        "SmolLM2-\N{HORIZONTAL ELLIPSIS}alpha=0.5"
    )
    assert short_names(["a/base", "b/base"]) == {"a/base": "a/base", "b/base": "b/base"}


def test_without_prompts_there_are_losses_only(phi, texts):
    evaluation = evaluate([str(phi)], texts, block_size=48, prompts=0)
    names = {"loss", "perplexity", "accuracy", "exact_memorisation", "extraction_strength"}
    assert values(evaluation, str(phi), "one").keys() == names
    assert score_tables(evaluation.scores)[0].columns == ("model", "loss", "perplexity", "top-1")


# --- models ----------------------------------------------------------------------------------------------------------


def test_each_model_is_freed_before_the_next_is_loaded(phi, phi_tuned, texts, monkeypatch):
    loaded = []

    def watch(*args, **kwargs):
        gc.collect()
        assert all(reference() is None for reference in loaded)
        model = load_model(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    load_model = models.load_model
    monkeypatch.setattr(models, "load_model", watch)
    evaluate([str(phi), str(phi_tuned)], texts, **SMALL)
    assert len(loaded) == 2


def test_half_precision_is_evaluated_in_float32_on_a_cpu_and_said(tmp_path, texts):
    model, notes = tiny.save_model(tmp_path / "m", dtype=torch.bfloat16), Notes()
    wide = evaluate([str(model)], texts, **SMALL, device="cpu", listener=notes)
    assert f"{model}: on cpu in float32, though its files are bfloat16" in notes.notes
    narrow = evaluate([str(model)], texts, **SMALL, device="cpu", dtype="bfloat16")
    first, second = (values(e, str(model), "one")["loss"] for e in (wide, narrow))
    assert first != second
    assert first == pytest.approx(second, abs=0.05)


def test_an_adapter_is_its_merged_model(phi, texts, tmp_path):
    base = load(phi)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT calls what transformers has renamed
        tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(phi)
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    names = [str(tmp_path / "merged"), str(tmp_path / "adapter"), str(phi)]
    notes = Notes()
    evaluation = evaluate(names, texts, **SMALL, listener=notes, output_dir=tmp_path / "out")
    merged, adapter, untouched = (values(evaluation, name, "one") for name in names)
    assert adapter["loss"] == pytest.approx(merged["loss"], abs=1e-5)
    assert adapter["rouge_l_f1"] == merged["rouge_l_f1"]
    assert adapter[f"kl from {names[0]}"] == pytest.approx(0, abs=1e-6)
    assert abs(untouched["loss"] - merged["loss"]) > 1e-3
    written = json.loads((tmp_path / "out" / "taskarith.json").read_text(encoding="utf-8"))
    assert written["models"][1]["base"]["fingerprint"] == written["models"][2]["fingerprint"]
    with pytest.raises(UsageError, match="is an adapter, which cannot be edited in memory"):
        evaluate([names[1]], texts, **SMALL, negate=[names[1]])


def test_models_with_other_tokenizers_are_said_not_to_compare(phi, texts, tmp_path):
    other, notes = tiny.save_model(tmp_path / "other"), Notes()
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["river"])
    tokenizer.save_pretrained(other)
    evaluate([str(phi), str(other)], texts, **SMALL, listener=notes)
    assert any(f"{other} tokenises these texts otherwise than {phi}" in note for note in notes.notes)


def test_a_tokenizer_without_a_pad_token_will_do(phi, texts, tmp_path):
    model = tiny.save_model(tmp_path / "m")
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(model).pad_token is None
    assert strip(evaluate([str(model)], texts, **SMALL)) == strip(evaluate([str(phi)], texts, **SMALL))


def test_a_loss_that_is_not_finite_names_the_sample(texts, tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    model = load(folder)
    model.lm_head.bias.data[:] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"the loss of one\.txt#1 is not finite \(nan\)"):
        evaluate([str(folder)], texts, **SMALL, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- edits in memory -------------------------------------------------------------------------------------------------


def test_an_edit_in_memory_is_the_written_edit(phi, phi_tuned, texts, tmp_path):
    from taskarith.edit.apply import apply

    written = apply(str(phi), negate=[str(phi_tuned)], alpha=0.5, output_dir=tmp_path / "edited").path
    evaluation = evaluate([str(phi)], texts, **SMALL, negate=[str(phi_tuned)], alphas=[0.5, 0, 1])
    rows = evaluation.scores.models
    assert rows == tuple(row_name(str(phi), alpha) for alpha in (0.5, 0, 1))
    assert rows[0] == f"{phi} alpha=0.5"
    assert strip(evaluation, rows[0]) == strip(evaluate([str(written)], texts, **SMALL))
    assert strip(evaluation, rows[1]) == strip(evaluate([str(phi)], texts, **SMALL))
    assert strip(evaluation, rows[2]) != strip(evaluation, rows[1])


def test_names_of_rows_differ_where_alphas_do():
    assert row_name("m", 1.0) == "m alpha=1"
    assert row_name("m", 0.1) == "m alpha=0.1"
    assert row_name("m", 0.1234567) != row_name("m", 0.1234568)


# --- references ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sides")
    for name, seed in (("forget", 1), ("holdout", 2)):
        rows = [{"prompt": "The keeper:", "completion": " " + tiny.text(1, seed * 100 + n)} for n in range(5)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in ("forget", "holdout")}


def test_a_retain_model_is_a_row_and_the_reference(phi, phi_tuned, sides, tmp_path):
    retrained = str(tiny.save_model(tmp_path / "retrained", nudge_of=phi, seed=5))
    models = [str(phi), str(phi_tuned)]
    evaluation = evaluate(models, sides, **SMALL, retain=retrained, output_dir=tmp_path / "out")
    scores = evaluation.scores
    assert scores.models == (*models, retrained)
    lacking = ["auc_gradient", "tpr", "leak_at_k of forget"]  # with five samples of holdout
    assert [list(missing) for missing in scores.missing.values()] == [lacking] * 3
    overall = scores.overall[models[1]]
    assert overall.keys() == {
        *("auc_loss", "auc_zlib", "auc_min_20", "auc_min_40", "auc_min_20_plus", "auc_min_40_plus"),
        *("auc_reference", "privleak"),
    }
    assert (scores.overall[retrained]["privleak"].value, scores.overall[retrained]["auc_reference"].value) == (0, 0.5)
    assert values(evaluation, models[1], "forget")[f"kl from {retrained}"] > 0
    assert not any(name.startswith("kl") for name in values(evaluation, retrained, "forget"))
    assert score_stored([tmp_path / "out"], retain=retrained) == scores
    plain = evaluate(models, sides, **SMALL)
    assert strip(evaluation, models[1]) == strip(plain, models[1])
    assert f"kl from {models[0]}" in values(plain, models[1], "forget")
    assert "--retain" in plain.scores.missing[models[1]]["privleak"]
    first = next(record for record in evaluation.records if record["kind"] == "loss")
    assert first["zlib_bytes"] == zlib_bytes(load_data(sides["forget"]).documents[0].text)
    assert len(first["token_losses"]) == len(first["hits"]) == len(first["z_scores"]) == first["tokens"]


def test_the_first_alpha_is_the_reference_and_later_edits_do_not_change_it(phi, phi_tuned, sides):
    found = evaluate([str(phi)], sides, **SMALL, add=[str(phi_tuned)], alphas=[0, 1])
    written = evaluate([str(phi), str(phi_tuned)], sides, **SMALL)
    edited, tuned = found.scores.models[1], str(phi_tuned)
    kl = values(found, edited, "forget")[f"kl from {phi} alpha=0"]
    assert kl == pytest.approx(values(written, tuned, "forget")[f"kl from {phi}"], rel=1e-3)


def test_distributions_that_do_not_compare_are_said_to_be_missing(phi, sides, tmp_path):
    def notes_of(first, second):
        notes = Notes()
        found = evaluate([str(first), str(second)], sides, **SMALL | {"prompts": 0}, listener=notes)
        assert not any(record["kind"] == "divergence" for record in found.records)
        return [note for note in notes.notes if note.startswith("KL and agreement")]

    capped = tmp_path / "capped"
    gemma().save_pretrained(capped)
    tiny.tokenizer().save_pretrained(capped)
    why = f"the logits of {capped} are not its output layer's alone"
    assert notes_of(capped, phi) == [f"KL and agreement of {phi} are missing: {why}"]
    other = tiny.save_model(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["keeper"])
    tokenizer.save_pretrained(other)
    why = f"its tokens are others than those of {phi}"
    assert notes_of(phi, other) == [f"KL and agreement of {other} are missing: {why}"]
    wide = tmp_path / "wide"
    model = load(phi)
    model.resize_token_embeddings(tiny.VOCABULARY + 8)
    model.save_pretrained(wide)
    tiny.tokenizer().save_pretrained(wide)
    why = f"its vocabulary has another size than that of {phi}"
    assert notes_of(phi, wide) == [f"KL and agreement of {wide} are missing: {why}"]


@pytest.mark.parametrize("words", [["ver", "ter", "ne", "op"], ["keeper"]])  # other numbers of blocks, and the same
def test_a_retain_model_that_cuts_texts_otherwise_is_a_named_gap(phi, texts, tmp_path, words):
    other, notes = tiny.save_model(tmp_path / "other"), Notes()
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(words)
    tokenizer.save_pretrained(other)
    named = {"forget": texts["one"], "holdout": texts["two"]}
    found = evaluate([str(phi)], named, **SMALL, retain=str(other), listener=notes)
    assert f"{phi} tokenises these texts otherwise than {other}: losses per token do not compare" in notes.notes
    assert "cannot be calculated" in found.scores.missing[str(phi)]["privleak"]
    assert "other" in found.scores.missing[str(phi)]["auc_reference"]
    assert {"auc_loss", "auc_min_40"} <= found.scores.overall[str(phi)].keys()
    assert found.scores.models == (str(phi), str(other))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "no model is given"),
        ({"data": {}}, "no data is given"),
        ({"models": ["{phi}", "{phi}"]}, "a model is given twice"),
        ({"retain": "{phi}"}, "a model is given twice"),
        ({"prompts": -1}, "--prompts -1 is out of range"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0"),
        ({"continuation_tokens": 0}, "--continuation-tokens 0"),
        ({"block_size": 1}, "--block-size 1 is out of range"),
        ({"block_size": 257}, "--block-size 257 is more than the 256 positions"),
        (
            {"prompt_tokens": 8, "continuation_tokens": 249, "data": {"book": "{book}"}},
            "continuation take more than the 256 positions",
        ),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": "many"}, "--batch-size many"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu"}, "tpu"),
        ({"models": ["{phi}", "other"], "negate": ["{tuned}"]}, "2 models and an edit"),
        ({"negate": ["{tuned}"], "alphas": [0.5, 0.5]}, "cannot evaluate alphas"),
        ({"negate": ["{tuned}"], "alphas": [math.nan]}, "cannot evaluate alphas"),
        ({"negate": ["{tuned}"], "alphas": []}, "cannot evaluate alphas"),
    ],
)
def test_wrong_calls_are_refused(change, message, phi, phi_tuned, texts, book):
    def fill(value):
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        return value.format(phi=phi, tuned=phi_tuned, book=book) if isinstance(value, str) else value

    call = {"models": [str(phi)], "data": texts, **SMALL, **{key: fill(value) for key, value in change.items()}}
    with pytest.raises(UsageError) as caught:
        evaluate(call.pop("models"), call.pop("data"), **call)
    assert message in caught.value.message
    assert caught.value.hint


def test_missing_and_empty_inputs_are_named(phi, texts, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    with pytest.raises(DataError, match=r"empty\.txt"):
        evaluate([str(phi)], {"empty": str(empty)}, **SMALL)
    with pytest.raises(DataError, match=r"absent\.txt"):
        evaluate([str(phi)], {"absent": str(tmp_path / "absent.txt")}, **SMALL)
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate([str(tmp_path / "nowhere")], texts, **SMALL)


def test_an_empty_forget_set_and_rows_longer_than_the_context_are_named_and_counted(phi, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"none\.jsonl has no text"):
        evaluate([str(phi)], {"forget": str(tmp_path / "none.jsonl")}, **SMALL)
    lengths = [2, 90, 3, 120]
    rows = [{"prompt": "river " * length, "completion": "salt"} for length in lengths]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"2 of 4 rows of .*long\.jsonl are longer than a block of 48 tokens .*:4: "):
        evaluate([str(phi)], {"forget": str(path)}, **SMALL)
    with pytest.raises(
        UsageError, match=r"1 of 4 prompts with their continuation take more than the 256 positions"
    ) as e:
        evaluate(
            [str(phi)], {"forget": str(path)}, **SMALL | {"block_size": 256, "prompts": 4, "continuation_tokens": 150}
        )
    assert "the longest is long.jsonl:4: " in e.value.message


def test_an_adapter_without_its_base_or_its_weights_is_refused(phi, texts, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="does not name its base"):
        evaluate([str(adapter)], texts, **SMALL)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(phi)}))
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        evaluate([str(adapter)], texts, **SMALL)


def test_an_adapter_of_another_model_or_cut_short_is_refused(phi, texts, tmp_path):
    model = load(phi)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "fc1"]))
    adapter = tmp_path / "adapter"
    tuned.peft_config["default"].base_model_name_or_path = str(phi)
    tuned.save_pretrained(adapter)
    factors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(sorted(factors.items())[:-1]), adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its base: Found missing adapter keys"):
        evaluate([str(adapter)], texts, **SMALL)
    other = tiny.save_model(tmp_path / "gpt2", "gpt2")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(CheckpointError, match=f"{adapter} does not fit its base"):
        evaluate([str(adapter)], texts, **SMALL)


def test_an_output_that_exists_is_refused_before_any_work(texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(TaskarithError, match="out already exists"):
        evaluate([str(tmp_path / "no-model")], texts, **SMALL, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"
