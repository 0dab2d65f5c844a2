"""Leakage under sampling, which greedy decoding hides: the best of k continuations."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import finite

__all__ = ["budgets", "leak_at_k"]


def budgets(draws: int) -> tuple[int, ...]:
    """Return the values of k to report: 1, 2, 4, ... and the number of draws."""
    return tuple(dict.fromkeys([*(2**power for power in range(draws.bit_length())), draws]))


def leak_at_k(scores: ArrayLike, k: int) -> float:
    """Return an unbiased estimate of the expected score of the best of k continuations of a prompt.

    Source: Reisizadeh et al., "Leak@k" (arXiv:2511.04934): the sum over i of C(i - 1, k - 1) / C(n, k) times the i-th
    lowest score, which is the mean of the maximum over all subsets of k of the n draws. For scores of 0 and 1 that
    is pass@k, 1 - C(n - c, k) / C(n, k) with c ones, as in its code.

    :param scores: Scores of the n continuations, shape (n,).
    :param k: From 1, which is the mean, to n, which is the maximum.
    :raises DataError: They are empty, a score is not finite, or there are fewer than k.
    """
    ordered = np.sort(finite(scores, "scores of continuations"))
    if not 1 <= k <= len(ordered):
        raise DataError(
            f"{len(ordered)} continuations are too few for the best of {k}", "Draw more, or use a smaller k."
        )
    weights = [math.comb(rank, k - 1) / math.comb(len(ordered), k) for rank in range(len(ordered))]
    return math.fsum(weight * score for weight, score in zip(weights, ordered.tolist(), strict=True))
