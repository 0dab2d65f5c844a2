"""What is left of a text: intervals that decide whether it counts as forgotten, and that cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from sweeping import KNEW, NEVER, RUNS, SLACK, loss_rows, rows_of

from taskarith.sweeps.remaining import measure_remaining
from taskarith.sweeps.rule import TextScore

LEVEL, KNOWN = 4.0, 1.0  # nats a token of a model that never knew the text, and of one that does


def _answers(scores):
    return [
        {"kind": "continuation", "text": "forget", "sample": str(at), "rouge_l_f1": score}
        for at, score in enumerate(scores.tolist())
    ]


def _row(rng, hard, tokens, left):
    """Records of a model that has this share of the knowledge left, on samples that are hard for all models alike."""
    n = len(hard)
    nll = tokens * (LEVEL - (LEVEL - KNOWN) * left + (1 - 0.7 * left) * hard + rng.normal(0, 0.2, n))
    knows = rng.random(n) < left
    known, unknown = np.clip(0.9 - hard / 4 + rng.normal(0, 0.1, n), 0, 1), rng.beta(0.6, 3, n)
    return loss_rows(nll, tokens) + _answers(np.where(knows, known, unknown))


@pytest.mark.parametrize("left", [0, 0.3, 1])
@pytest.mark.parametrize("n", [4, 16, 40])
def test_what_is_left_is_covered(n, left):
    """Of those that are given: where the samples do not show that the text was known there is none."""
    rng, losses, scores = np.random.default_rng(7), [], []
    for _ in range(RUNS):
        tokens, hard = rng.integers(20, 250, n), rng.normal(0, 0.4, n)
        rows = [_row(rng, hard, tokens, share) for share in (left, 1, 0)]
        found = measure_remaining(*rows)["forget"]
        losses += [] if found.loss is None else [found.loss.low <= left <= found.loss.high]
        scores += [] if found.rouge is None else [found.rouge.low <= left <= found.rouge.high]
    assert min(len(losses), len(scores)) > RUNS / 2
    assert np.mean(losses) >= 0.92 - SLACK
    assert np.mean(scores) >= 0.92 - SLACK


@pytest.mark.parametrize(
    ("edited", "loss", "rouge", "is_forgotten"),
    [
        (KNEW, 1.0, 1.0, False),
        (NEVER, 0.0, 0.0, True),
        (([4.0, 4.1, 4.2, 3.7], [0.2, 0.1, 0.1, 0.2]), -0.01, 0.03, True),
        (([0.9, 1.0, 1.1, 0.985], [0.1, 0.2, 0.1, 0.15]), 0.81, 0.0, False),  # one measure is not enough
        (([3.9, 4.1, 4.0, 3.8], [0.5, 0.2, 0.1, 0.15]), 0.0, 0.22, False),  # a prompt that still tells all
        (([3.9, 4.1, 4.0, 3.8], []), 0.0, None, True),
    ],
)
def test_what_is_left_of_a_text_has_an_interval_that_decides(edited, loss, rouge, is_forgotten):
    unedited, never = KNEW, NEVER
    if not edited[1]:
        unedited, never = (unedited[0], []), (never[0], [])
    rows = [rows_of(name, *values) for name, values in (("e", edited), ("u", unedited), ("n", never))]
    left = measure_remaining(*rows)["forget"]
    assert left.loss.value == pytest.approx(loss, abs=0.01)
    assert (left.rouge and left.rouge.value) == (rouge if rouge is None else pytest.approx(rouge, abs=0.01))
    assert left.is_forgotten is is_forgotten
    of_target = measure_remaining(*rows[:2], {"forget": TextScore(3.95)})["forget"]
    assert of_target.loss.value == pytest.approx(loss, abs=0.02)
    assert of_target.rouge is None


@pytest.mark.parametrize("size", [1, 2])
def test_few_samples_show_nothing(size):
    rows = [
        rows_of(name, values[0][:size], values[1][:size])
        for name, values in zip("eun", (NEVER, KNEW, NEVER), strict=True)
    ]
    rows[0][0]["nll"] += 12.0  # blocks that do not agree
    left = measure_remaining(*rows)["forget"]
    assert not left.is_forgotten
    assert (left.loss is None) is (size == 1)
