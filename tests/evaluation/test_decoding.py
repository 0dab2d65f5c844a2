"""Greedy decoding of many prompts at a time: the tokens of transformers' ``generate``, with fewer steps."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from decoding_rows import DECODED, LIMIT, WINDOWS, decoded, generated, model_of, rows
from evaluating import Words, tiny_model

from benchmarks.architectures.population import build
from benchmarks.architectures.recipes import VOCABULARY
from taskarith.evaluation import generation
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.grouping import can_decode, decodes_alike
from taskarith.evaluation.prompts import Prompt

OTHERS = ["gpt_neo", "bloom", "mpt", "mamba", "qwen3_next", "recurrent_gemma", "rwkv", "xlnet", "openai-gpt"]


@pytest.fixture
def passes(monkeypatch):
    """Rows and columns of each forward pass of llama."""
    model, shapes = tiny_model("llama"), []
    forward = type(model).forward

    @functools.wraps(forward)
    def seen(self, input_ids, **options):
        shapes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model), "forward", seen)
    return model, shapes


@pytest.mark.parametrize("name", [*DECODED, *WINDOWS])
def test_tokens_are_those_of_generate(name):
    model, prompts = model_of(name), rows()
    assert decodes_alike(model, prompts, LIMIT)
    right = [generated(model, row) for row in prompts]
    assert len({tuple(tokens) for tokens in right}) > 3
    mixed = [truth[:5] + [3] * number for number, truth in enumerate(right)]
    for truths, slots in ((right, 1), (right[::-1], 3), (mixed, 5), ([()] * len(prompts), 4), (right, 99)):
        assert decoded(model, prompts, truths, slots) == right


@pytest.mark.parametrize("name", OTHERS)
def test_other_attention_is_left_to_generate(name):
    model = tiny_model(name)
    prompts = [row for row in rows() if 1 < len(row) < 40]
    assert not decodes_alike(model, prompts, LIMIT)
    asked = [Prompt(str(number), row, "", "") for number, row in enumerate(prompts)]
    found = continue_greedily(model, Words(), asked, Batching(3), max_new_tokens=LIMIT, end_ids=())
    assert found[:3] == [Words().decode(generated(model, row)) for row in prompts[:3]]


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_is_tried_only_if_it_holds_all_tokens(name):
    model = tiny_model(name)
    window = getattr(model.config, "attention_chunk_size", None) or model.config.sliding_window
    assert can_decode(model, window)
    assert not can_decode(model, window + 1)


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        (
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 64,
                "short_factor": [1.0],
                "long_factor": [2.0],
            },
            64,
        ),
        ({"full_attention": {"rope_type": "dynamic", "factor": 2.0}}, 128),
        ({"rope_type": "linear", "factor": 2.0}, 10**6),
    ],
    ids=str,
)
def test_rotations_that_depend_on_the_longest_row_are_left_to_generate_beyond_their_length(rope, most):
    model = build("llama")
    model.config.max_position_embeddings, model.config.rope_parameters = 128, rope
    assert can_decode(model, most)
    assert can_decode(model, most + 1) == (most == 10**6)


def test_code_from_elsewhere_is_left_to_generate():
    class Llama(type(build("llama"))):
        """A model of no module of transformers."""

    assert can_decode(build("llama"), 100)
    assert not can_decode(Llama(build("llama").config), 100)


def test_an_edge_of_the_positions_is_not_crossed_by_guesses():
    config = build("gpt2").config
    config.n_positions = 12
    torch.manual_seed(0)
    model = type(build("gpt2"))(config).eval()
    prompts, truths = [range(2, 10), range(2, 5)], [[3] * 4] * 2
    assert decodes_alike(model, prompts, 4)
    assert [len(made) for made in decoded(model, prompts, truths, 2, limit=4)] == [4, 4]


def test_a_model_that_knows_the_truth_takes_few_steps(passes):
    model, shapes = passes
    prompts = [row for row in rows() if len(row) == 24]
    right = [generated(model, row) for row in prompts]
    shapes.clear()
    assert decoded(model, prompts, right, 2) == right
    assert shapes[0] == (2, 23)
    assert [width for _, width in shapes[1:]] == [4, 8]
    shapes.clear()
    assert decoded(model, prompts, [()] * 2, 2) == right
    assert len(shapes) == 1 + LIMIT


def test_an_ended_row_makes_room_at_once(passes, monkeypatch):
    monkeypatch.setattr("taskarith.evaluation.decoding._GUESSES", (0,))
    model, shapes = passes
    prompts = [(2, 3 + number) for number in range(6)]
    ends = {0: 3, 1: 5, 2: 2, 3: 1, 4: 9, 5: 12}
    decoded(model, prompts, [()] * 6, 2, is_over=lambda index, made: len(made) == ends[index])
    steps = [rows for rows, width in shapes if width == 1]
    assert sum(steps) == sum(ends.values()) + 6  # and a token of each prompt before its last
    assert max(steps) == 2


def test_what_prompts_begin_with_is_read_once(passes):
    model, shapes = passes
    few_shot = list(range(2, 42))
    prompts = [[*few_shot, 50, 51 + number, 60] for number in range(6)]
    right = [generated(model, row) for row in prompts]
    shapes.clear()
    assert decoded(model, prompts, [()] * 6, 3, limit=LIMIT) == right
    read = [shape for shape in shapes if shape[1] > 1]
    assert read[0] == (1, 42)
    assert sum(rows * columns for rows, columns in shapes) < 42 + 6 * (1 + LIMIT) + 6


def test_a_prompt_that_is_nearly_read_is_padded_beside_one_that_is_not():
    model, rng = tiny_model("llama"), random.Random(2)
    first, second, other = ([rng.randrange(2, VOCABULARY) for _ in range(70)] for _ in range(3))
    prompts = [first, second, [*first[:50], 9, 8, 7], other]  # the last two are read together

    def is_over(index, made):
        return index < 2 and len(made) >= 1

    made = decoded(model, prompts, [()] * 4, 2, is_over=is_over)
    assert made[2:] == [generated(model, row) for row in prompts[2:]]


def test_prompts_end_at_their_own_strings_without_further_steps(passes):
    model, shapes = passes
    (right,) = [generated(model, row) for row in rows()[4:5]]
    end = f" {right[2]} "
    prompt = Prompt("a", rows()[4], "", "", ends=(end,))
    continue_greedily(model, Words(), [prompt], Batching(2), max_new_tokens=LIMIT, end_ids=())
    shapes.clear()
    found = continue_greedily(model, Words(), [prompt], Batching(2), max_new_tokens=LIMIT, end_ids=())
    words = Words().decode(right)
    assert found == [words[: words.index(end)]]
    assert len(shapes) < 1 + LIMIT


def test_less_memory_means_fewer_slots(monkeypatch):
    model, prompts = tiny_model("llama"), rows()
    right = [generated(model, row) for row in prompts]
    tried, whole = [], generation.decode

    def short_of_memory(model, job, slots):
        tried.append((len(job.prompts), slots))
        if slots > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(model, job, slots)

    monkeypatch.setattr(generation, "decode", short_of_memory)
    asked = [Prompt(str(number), row, "", "") for number, row in enumerate(prompts)]
    found = continue_greedily(model, Words(), asked, Batching(8, shrink=True), max_new_tokens=LIMIT, end_ids=())
    assert found == [Words().decode(tokens) for tokens in right]
    assert tried == [(12, 8), (12, 4), (8, 2), (4, 2)]
