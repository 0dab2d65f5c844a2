"""The intervals that decide whether a text counts as forgotten cover what they promise, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from taskarith.sweeps.remaining import measure_remaining
from taskarith.sweeps.split import mean_loss

RUNS = 150
SLACK = 3 * math.sqrt(0.05 * 0.95 / RUNS)  # three standard errors of a simulated coverage of 95%
LEVEL, KNOWN = 4.0, 1.0  # nats a token of a model that never knew the text, and of one that does


def _losses(nll, tokens, text="forget"):
    pairs = enumerate(zip(nll.tolist(), tokens.tolist(), strict=True))
    return [{"kind": "loss", "text": text, "sample": str(at), "nll": nll, "tokens": n} for at, (nll, n) in pairs]


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
    return _losses(nll, tokens) + _answers(np.where(knows, known, unknown))


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


@pytest.mark.parametrize("n", [4, 16, 40])
def test_the_mean_loss_of_two_texts_is_covered(n):
    """Beside another row as well, sample by sample."""
    rng, alone, rises = np.random.default_rng(7), [], []
    for _ in range(RUNS):
        before, after = [], []
        for text, loss in (("retain", 2.0), ("other", 3.0)):
            tokens, hard = rng.integers(20, 250, n), rng.normal(0, 0.4, n)
            before += _losses(tokens * (loss + hard), tokens, text)
            after += _losses(tokens * (loss + 0.1 + 1.1 * hard + rng.normal(0, 0.1, n)), tokens, text)
        mean, rise = mean_loss(after, forgotten=False), mean_loss(after, before, forgotten=False)
        alone.append(mean.low <= 2.6 <= mean.high)
        rises.append(rise.low <= 0.1 <= rise.high)
    assert np.mean(alone) >= 0.92 - SLACK
    assert np.mean(rises) >= 0.92 - SLACK
