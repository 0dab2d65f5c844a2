"""Prompts and continuations: where windows lie, where texts end, and that batches change nothing."""

from __future__ import annotations

import functools
import json
from collections import Counter

import pytest
import tiny
import torch
from attacking import opened
from decoding_rows import rows
from evaluating import LENGTHS, SMALL, Words, constant_model, load, random_samples, strip, tiny_model, values
from transformers import TopKLogitsWarper

from taskarith.evaluation import generation
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.decoding import MOST_TOKENS
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.generation import Sampling, continue_greedily, continue_sampled
from taskarith.evaluation.grouping import decodes_alike
from taskarith.evaluation.prompts import Prompt


def random_prompts():
    return [Prompt(sample.id, sample.input_ids, "", "") for sample in random_samples()]


def continuations(model, batch_size, end_ids=(), prompts=None):
    return continue_greedily(
        model,
        tiny.tokenizer(),
        prompts or random_prompts(),
        Batching(batch_size),
        max_new_tokens=12,
        end_ids=end_ids,
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


def test_sampling_is_seeded_and_leaves_the_generators_alone(phi):
    loaded, prompts = opened(phi), [Prompt(str(n), tuple(range(5, 9 + n)), "", "") for n in range(3)]
    how = {"max_new_tokens": 8, "end_ids": ()}

    def drawn(seed, top_k=50):
        return continue_sampled(loaded.model, loaded.tokenizer, prompts, Batching(4), Sampling(3, top_k, seed), **how)

    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(draws) for draws in first] == [3, 3, 3]
    assert first == drawn(1)
    assert first != drawn(2)
    greedy = continue_greedily(loaded.model, loaded.tokenizer, prompts, Batching(4), **how)
    assert drawn(1, top_k=1) == [[text] * 3 for text in greedy]


@pytest.mark.parametrize("top_k", [0, 6])
def test_samples_are_those_of_single_steps_whatever_the_batches_and_the_guesses(top_k, monkeypatch):
    monkeypatch.setattr(generation, "encode", lambda _, text: [int(word) for word in text.split()])
    model, prompts, limit = tiny_model("llama"), rows(), 6
    sampling = Sampling(3, top_k, seed=5)
    numbers = sampling.numbers(len(prompts), limit + MOST_TOKENS)
    expected = [
        [sampled_by_hand(model, row, numbers[3 * index + draw, :limit], top_k) for draw in range(3)]
        for index, row in enumerate(prompts)
    ]
    assert len({text for texts in expected for text in texts}) > len(prompts)
    for size, truths in ((1, False), (4, True), (99, True)):
        asked = [Prompt(str(n), row, "", expected[n][1] if truths else "", ends=()) for n, row in enumerate(prompts)]
        made = continue_sampled(model, Words(), asked, Batching(size), sampling, max_new_tokens=limit, end_ids=())
        assert made == expected


def sampled_by_hand(model, row, numbers, top_k):
    """Choose the first token at which the sum of the probabilities, of which transformers keeps k, reaches a number."""
    ids = list(row)
    for number in numbers.tolist():
        with torch.inference_mode():
            scores = model(torch.tensor([ids]), use_cache=False).logits[:, -1].float()
        shares = (TopKLogitsWarper(top_k)(None, scores) if top_k else scores).softmax(-1)[0].double()
        ids.append(next(token for token, total in enumerate(shares.cumsum(0) / shares.sum()) if total >= number))
    return Words().decode(ids[len(row) :])


def test_samples_have_the_frequencies_of_the_probabilities():
    model, row, draws = tiny_model("llama"), rows()[3], 4000
    model.lm_head.weight.data.mul_(3)  # so that probabilities differ
    asked = [Prompt("a", row, "", "")]
    (texts,) = continue_sampled(
        model, Words(), asked, Batching(500), Sampling(draws, 4, seed=3), max_new_tokens=1, end_ids=()
    )
    with torch.inference_mode():
        scores = model(torch.tensor([row])).logits[:, -1]
    shares = TopKLogitsWarper(4)(None, scores).softmax(-1)[0]
    likely = shares.nonzero().flatten().tolist()
    counts = Counter(texts)
    assert set(counts) <= {Words().decode([token]) for token in likely}
    for token in likely:
        share = float(shares[token])
        assert abs(counts[Words().decode([token])] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5 + 1e-9


def test_what_draws_begin_with_is_read_once(monkeypatch):
    model, read = tiny_model("llama"), []
    forward = type(model).forward

    def seen(self, input_ids, **options):
        read.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    asked, how = [Prompt("a", tuple(range(2, 66)), "", "")], {"max_new_tokens": 2, "end_ids": ()}
    assert decodes_alike(model, [asked[0].input_ids], 2)
    monkeypatch.setattr(type(model), "forward", functools.wraps(forward)(seen))
    continue_sampled(model, Words(), asked, Batching(8), Sampling(8, 0, 1), **how)
    assert read[0] == 63
    assert sum(read) == 63 + 8 * 2
