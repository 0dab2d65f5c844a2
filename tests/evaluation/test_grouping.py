"""Which rows share a batch: no continuation and no loss of any family depends on what else is in its batch."""

from __future__ import annotations

import random

import pytest
import torch
from evaluating import Words, tiny_model

from benchmarks.architectures.population import build
from benchmarks.architectures.recipes import VOCABULARY
from taskarith.data.tokens import Sample
from taskarith.evaluation.batches import Batching, Grouping
from taskarith.evaluation.generation import Sampling, continue_greedily, continue_sampled
from taskarith.evaluation.grouping import grouping_of_generation, grouping_of_scoring, takes_padding
from taskarith.evaluation.loss import score_samples
from taskarith.evaluation.prompts import Prompt

PADDED = ["llama", "gpt2", "bloom", "mpt", "opt", "ctrl", "gemma3_text", "mixtral", "lfm2", "minimax"]
EQUAL = ["recurrent_gemma", "mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "zamba2", "nemotron_h"]
EQUAL += ["qwen3_next", "qwen3_5_text", "granitemoehybrid", "xlnet", "trocr"]
ALONE = ["rwkv"]
LENGTHS = [5, 17, 9, 3, 24, 24, 9, 17]


def rows():
    rng = random.Random(0)
    return [tuple(rng.randrange(2, VOCABULARY) for _ in range(length)) for length in LENGTHS]


def continuations(model, batch_size, sampling=None, *, shrink=False, max_new_tokens=8, end_ids=()):
    prompts = [Prompt(str(number), row, "", "") for number, row in enumerate(rows())]
    options = {"max_new_tokens": max_new_tokens, "end_ids": end_ids}
    if sampling is not None:
        return continue_sampled(model, Words(), prompts, Batching(batch_size, shrink), sampling, **options)
    return continue_greedily(model, Words(), prompts, Batching(batch_size, shrink), **options)


def losses(model, batch_size):
    samples = [Sample(str(number), row, 0) for number, row in enumerate(rows())]
    return [score.nll for score in score_samples(model, samples, Batching(batch_size))]


@pytest.mark.parametrize("name", [*PADDED, *EQUAL, *ALONE])
def test_nothing_depends_on_the_batch(name):
    model = tiny_model(name)
    alone = continuations(model, 1)
    assert continuations(model, 5) == alone
    assert len(set(alone)) > 1
    assert losses(model, 5) == pytest.approx(losses(model, 1), rel=1e-5)
    right = [g for g, names in zip(Grouping, (PADDED, EQUAL, ALONE), strict=True) if name in names]
    assert [grouping_of_generation(model, rows())] == right
    assert takes_padding(model) == (name in PADDED)


@pytest.mark.parametrize("name", ["bert", "cpmant"])
def test_losses_of_models_that_look_ahead_do_not_depend_on_the_batch_either(name):
    config = build(name).config
    config.is_decoder = False
    model = type(build(name))(config).eval()
    assert grouping_of_scoring(model, rows()) == Grouping.EQUAL
    assert losses(model, 8) == pytest.approx(losses(model, 1), rel=1e-5)


@pytest.mark.parametrize("name", ["bloom", "recurrent_gemma", "rwkv"])
def test_batches_that_shrink_change_nothing(name, monkeypatch):
    model = tiny_model(name)
    alone, generate, sizes = continuations(model, 1), model.generate, []
    continuations(model, 2)  # now it is known which prompts go together

    def short_of_memory(input_ids, **options):
        sizes.append(input_ids.shape)
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", short_of_memory)
    assert continuations(model, 5, shrink=True) == alone
    assert (max(rows for rows, _ in sizes) > 1) == (name != "rwkv")


def test_no_prompt_is_padded_where_padding_is_read(monkeypatch):
    model = tiny_model("recurrent_gemma")
    continuations(model, 2)
    generate, shapes = model.generate, []

    def seen(input_ids, attention_mask, **options):
        shapes.append(tuple(input_ids.shape))
        assert attention_mask.all()
        return generate(input_ids=input_ids, attention_mask=attention_mask, **options)

    monkeypatch.setattr(model, "generate", seen)
    continuations(model, 8)
    assert shapes == [(2, 24), (2, 17), (2, 9), (1, 5), (1, 3)]


def test_an_attention_model_is_asked_once_and_then_given_full_batches(monkeypatch):
    model = tiny_model("bloom")
    generate, shapes = model.generate, []

    def seen(input_ids, **options):
        shapes.append(tuple(input_ids.shape))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", seen)
    continuations(model, 8)
    assert shapes == [(1, 2), (1, 20), (1, 10), (2, 20), (8, 24)]  # the first: whether it runs with a cache
    continuations(model, 1)
    continuations(model, 5)
    assert shapes[5:] == [(1, length) for length in sorted(LENGTHS, reverse=True)] + [(5, 24), (3, 9)]


@pytest.mark.parametrize("name", ["llama", "recurrent_gemma", "rwkv"])
def test_draws_are_those_of_the_seed(name):
    model = tiny_model(name)

    def drawn(seed, top_k=20):
        return continuations(model, 6, Sampling(3, top_k, seed), max_new_tokens=6)

    state = torch.random.get_rng_state()
    found = drawn(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert found == drawn(1)
    assert found != drawn(2)
    assert all(len(draws) == 3 and len(set(draws)) > 1 for draws in found)
    certain = drawn(1, top_k=1)
    assert certain == [[text] * 3 for text in continuations(model, 1, max_new_tokens=6)]


def test_an_edge_of_the_positions_is_not_crossed_by_asking():
    config = build("gpt2").config
    config.n_positions = 12
    model = type(build("gpt2"))(config).eval()
    assert grouping_of_generation(model, [range(2, 10), range(2, 5)]) == Grouping.PADDED
    assert grouping_of_scoring(model, [range(2, 14), (2, 3)]) == Grouping.PADDED


def test_a_model_that_fails_on_batches_only_goes_through_rows_one_by_one(monkeypatch):
    model = tiny_model("llama")
    generate = model.generate

    def refuse(input_ids, **options):
        if len(input_ids) > 1:
            raise ValueError("one row at a time")
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", refuse)
    assert grouping_of_generation(model, rows()) == Grouping.ALONE
    assert continuations(model, 5) == continuations(model, 1)


def test_rounding_is_told_from_padding_that_is_read(monkeypatch):
    model = tiny_model("llama").to(torch.bfloat16)
    assert grouping_of_generation(model, rows()) == Grouping.PADDED
    model = tiny_model("recurrent_gemma").to(torch.bfloat16)
    monkeypatch.setattr(type(model), "_is_stateful", False)  # as far as it says
    assert grouping_of_generation(model, rows()) == Grouping.EQUAL
