"""The true positive rate of membership inference at a low false positive rate (FPR)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Estimate, Floats, finite, rate_interval

__all__ = ["needed_nonmembers", "tpr_at_fpr", "tpr_with_interval"]

_TAIL = 0.0125
"""Tail probability of each end of an interval, for the threshold and for the rate of members beyond it."""
_ROUNDING = 1e-9


def needed_nonmembers(fpr: float) -> int:
    """Return the number of nonmembers needed to resolve a false positive rate: one of them makes up the rate."""
    return math.ceil(1 / fpr - _ROUNDING)


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float) -> float:
    """Return the share of members above the threshold that at most a share ``fpr`` of nonmembers exceeds.

    Source: Carlini et al., "Membership Inference Attacks From First Principles" (arXiv:2112.03570). Convention: the
    highest true positive rate of the ROC curve whose false positive rate is at most ``fpr``, as in the code of
    Min-K%++; the curve is not interpolated and keeps all its points (scikit-learn drops those on straight lines).

    :param members: Scores, shape (m,), higher for samples that look more like members.
    :param nonmembers: Shape (n,).
    :param fpr: In (0, 1).
    :raises DataError: A side is empty, a score is not finite, or there are too few nonmembers to resolve the rate.
    """
    inside, outside, allowed = _sides(members, nonmembers, fpr)
    return float((inside > outside[allowed]).mean())


def tpr_with_interval(members: ArrayLike, nonmembers: ArrayLike, fpr: float) -> Estimate:
    """Return the true positive rate with an interval of at least 95%.

    Both the threshold and the rate of members beyond it are estimates: the interval goes from the lower end of
    the Clopper-Pearson interval at the highest plausible threshold, by the order statistics of nonmembers (David and
    Nagaraja, "Order Statistics", 7.1), to the upper end at the lowest one, each with half of 2.5% (Bonferroni). With
    just enough nonmembers to resolve the rate, it goes down to 0.

    :return: Without an interval if a side has one sample; ``n`` is m + n.
    :raises DataError: As for ``tpr_at_fpr``.
    """
    from scipy.stats import binom  # late: a heavy import

    inside, outside, allowed = _sides(members, nonmembers, fpr)
    value, m, n = float((inside > outside[allowed]).mean()), len(inside), len(outside)
    if min(m, n) < 2:
        return Estimate(value, None, None, m + n)
    fewest = int(binom.ppf(_TAIL, n, fpr))  # range of nonmembers that may truly be beyond the threshold
    most = int(binom.isf(_TAIL, n, fpr))
    low, high = 0.0, 1.0
    if fewest > 0:
        low = rate_interval(float((inside > outside[fewest - 1]).mean()), m, _TAIL)[0]
    if most < n:
        high = rate_interval(float((inside > outside[most]).mean()), m, _TAIL)[1]
    return Estimate(value, min(low, value), max(high, value), m + n)


def _sides(members: ArrayLike, nonmembers: ArrayLike, fpr: float) -> tuple[Floats, Floats, int]:
    """Return members, nonmembers in descending order, and the allowed number of false positives."""
    inside, outside = finite(members, "scores of members"), finite(nonmembers, "scores of nonmembers")
    if not 0 < fpr < 1:
        raise DataError(f"{fpr} is not a false positive rate", "Give a number between 0 and 1, such as 0.01.")
    if len(outside) < needed_nonmembers(fpr):
        raise DataError(
            f"{len(outside)} nonmembers are too few for a false positive rate of {fpr:g}",
            f"Give at least {needed_nonmembers(fpr)}.",
        )
    return inside, np.sort(outside)[::-1], math.floor(fpr * len(outside) + _ROUNDING)
