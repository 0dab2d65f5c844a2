"""Means and other statistics of samples with their uncertainty: bootstrap intervals, and the spread over seeds.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979); Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), chapter 13. Convention: percentile intervals of 95%, 2,000 resamples of whole samples, seed 42. BCa
would be undefined where all samples are equal, which is what a model that knows everything gives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.errors import DataError

__all__ = ["Estimate", "Floats", "Spread", "drawn_often", "estimate", "finite", "mean", "over_seeds", "ratio"]

Floats = NDArray[np.float64]

_RESAMPLES = 2_000
_SEED = 42
_HELD = 4_000_000  # indices of resamples held at once: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval.

    :param value: The number; infinite only where it is a perplexity that a float64 cannot hold.
    :param low: Lower end of the interval; None where there is none, as of a single sample.
    :param high: Upper end.
    :param n: Samples that it was made from.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; JSON knows no infinity, so that is null."""
        ends = {name: _plain(value) for name, value in (("value", self.value), ("low", self.low), ("high", self.high))}
        return {**ends, "n": self.n}


@dataclass(frozen=True)
class Spread:
    """The mean of a number over seeds.

    :param value: The mean.
    :param spread: Standard deviation between seeds, divided by n - 1; None where a value is infinite.
    :param seeds: How many.
    """

    value: float
    spread: float | None
    seeds: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; JSON knows no infinity, so that is null."""
        return {"value": _plain(self.value), "spread": self.spread, "seeds": self.seeds}


def finite(values: ArrayLike, what: str) -> Floats:
    """Return values as float64 of the same shape.

    :param what: Names them in errors, as in ``losses``.
    :raises DataError: There are none, or one is infinite or NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise DataError(f"there are no {what}", "Give the records of one sample or more.")
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise DataError(
            f"{bad} of {array.size} {what} are not finite", "Evaluate again: weights are broken or overflow."
        )
    return array


def estimate(statistic: Callable[..., Any], *sizes: int) -> Estimate:
    """Return a statistic of one or more independent groups of samples, with its bootstrap interval.

    :param statistic: Takes one int64 array of positions for each group, each of shape (..., size), and returns float64
        of shape (...): so values that belong to one sample are drawn together. Of a resample it may be NaN.
    :param sizes: Samples of each group. With fewer than two in a group there is no interval, nor where the statistic of
        a resample is NaN.
    :raises DataError: A group is empty, or the statistic of all samples is not finite.
    """
    if 0 in sizes:
        raise DataError("there are no samples", "Give the records of one sample or more.")
    value = float(finite(statistic(*(np.arange(size) for size in sizes)), "statistics"))
    if min(sizes) < 2:
        return Estimate(value, None, None, sum(sizes))
    from scipy.stats import (
        DegenerateDataWarning,
        bootstrap,
    )  # late: it takes longer to import than everything else here

    def drawn(*positions: NDArray[Any], axis: int) -> Any:
        del axis  # always the last
        return statistic(*(array.astype(np.int64) for array in positions))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # scipy's word for a NaN among the resamples
        interval = bootstrap(
            tuple(np.arange(size) for size in sizes),
            drawn,
            n_resamples=_RESAMPLES,
            batch=max(1, _HELD // sum(sizes)),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
    if math.isnan(interval.low) or math.isnan(interval.high):
        return Estimate(value, None, None, sum(sizes))
    low, high = sorted((float(interval.low), float(interval.high)))  # of equal resamples a rounding can swap them
    return Estimate(value, low, high, sum(sizes))


def mean(values: ArrayLike) -> Estimate:
    """Return the mean of samples of equal weight, with its bootstrap interval.

    :param values: Shape (samples,).
    :raises DataError: There are none, or one is not finite.
    """
    array = finite(values, "values")
    found = estimate(lambda index: array[index].mean(-1), len(array))
    return Estimate(math.fsum(array) / len(array), found.low, found.high, found.n)  # in no order


def ratio(sums: ArrayLike, counts: ArrayLike) -> Estimate:
    """Return sum / count over all samples, as of losses by token: long samples weigh more, as do their tokens.

    :param sums: Sum over the tokens of each sample, shape (samples,).
    :param counts: Tokens of each sample, positive, shape (samples,).
    :raises DataError: There are none, or one is not finite, or a count is not positive.
    """
    totals, tokens = finite(sums, "sums"), finite(counts, "counts")
    if tokens.min() <= 0:
        raise DataError("a sample has no tokens", "Leave samples without scored tokens out of the records.")
    found = estimate(lambda index: totals[index].sum(-1) / tokens[index].sum(-1), len(totals))
    return Estimate(math.fsum(totals) / math.fsum(tokens), found.low, found.high, found.n)


def drawn_often(codes: NDArray[Any], positions: NDArray[np.int64], kinds: int) -> Floats:
    """Return how often each code occurs in resamples.

    :param codes: Of each sample, from 0 to ``kinds`` - 1, shape (size,).
    :param positions: Resamples, shape (..., size).
    :return: Shape (..., kinds).
    """
    rows = codes[positions.reshape(-1, positions.shape[-1])]
    places = rows + kinds * np.arange(len(rows))[:, None]
    counts = np.bincount(places.ravel(), minlength=kinds * len(rows)).astype(np.float64)
    return counts.reshape(*positions.shape[:-1], kinds)


def over_seeds(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation (n - 1) of one number over seeds.

    :raises DataError: There are fewer than two, or one is NaN.
    """
    if len(values) < 2:
        raise DataError(f"{len(values)} seed has no spread", "Give the records of two seeds or more.")
    if any(map(math.isnan, values)):
        raise DataError("a value of a seed is NaN", "Evaluate that seed again.")
    if any(map(math.isinf, values)):
        return Spread(math.inf, None, len(values))
    return Spread(math.fsum(values) / len(values), float(np.std(values, ddof=1)), len(values))


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
