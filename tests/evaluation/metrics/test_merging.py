"""Normalised accuracy: its interval covers what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from taskarith.evaluation.metrics.merging import Answered, normalised_accuracy

RUNS = 400


@pytest.mark.parametrize(("n", "least"), [(12, 0.95), (20, 0.92), (60, 0.92), (200, 0.91)])
@pytest.mark.parametrize("right", [(0.6, 0.8), (0.8, 0.85)])
def test_normalised_accuracies_cover(right, n, least):
    """Of those that are given: where both models do the same there is none."""
    merged, finetuned = right
    rng, given = np.random.default_rng(7), []
    for _ in range(RUNS):
        best = rng.random(n) < finetuned
        kept = best & (rng.random(n) < merged / finetuned)
        found = normalised_accuracy([Answered(kept.astype(float), best.astype(float), np.ones(n))])
        given += [] if found.low is None else [found.low <= merged / finetuned <= found.high]
    assert np.mean(given) >= least - 3 * math.sqrt(0.05 * 0.95 / len(given))
