"""What sampling brings out that greedy decoding hides: the best of k continuations."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import finite

__all__ = ["budgets", "leak_at_k"]


def budgets(draws: int) -> tuple[int, ...]:
    """Return the k that are looked at where so many continuations were drawn: 1, 2, 4, ... and all of them."""
    return tuple(dict.fromkeys([*(2**power for power in range(draws.bit_length())), draws]))


def leak_at_k(scores: ArrayLike, k: int) -> float:
    """Return what the best of k continuations of one prompt scores on average, without bias.

    Source: Reisizadeh et al., "Leak@k" (arXiv:2511.04934): the sum over i of C(i - 1, k - 1) / C(n, k) times the i-th
    lowest score, which is the mean of the maximum over all subsets of k of the n draws. Of scores that are 0 or 1 that
    is pass@k, 1 - C(n - c, k) / C(n, k) of c ones, as its code has it.

    :param scores: Of the n continuations, shape (n,).
    :param k: From 1, which is the mean, to n, which is the maximum.
    :raises DataError: There are none, one is not finite, or there are fewer than k.
    """
    ordered = np.sort(finite(scores, "scores of continuations"))
    if not 1 <= k <= len(ordered):
        raise DataError(f"{len(ordered)} continuations do not tell the best of {k}", "Draw more, or ask for fewer.")
    weights = [math.comb(place, k - 1) / math.comb(len(ordered), k) for place in range(len(ordered))]
    return math.fsum(weight * score for weight, score in zip(weights, ordered.tolist(), strict=True))
