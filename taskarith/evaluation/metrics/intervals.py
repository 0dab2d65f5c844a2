"""Means and other statistics of samples with 95% intervals that hold for few samples, and the spread over seeds.

Intervals are Student's t on the jackknife's standard error (Quenouille 1956, Tukey 1958; of a mean that is the usual t
interval), with the degrees of freedom of Welch (1947) and Satterthwaite (1946) where several groups of samples are
independent. For bounded values of which too few differ to estimate their spread, the interval is at least that
of Clopper and Pearson (1934) for a rate, which holds for the largest spread that such values can have. A percentile
bootstrap covers 78% instead of 95% at 4 samples, and has no width if all samples are equal.
``tests/evaluation/metrics/test_intervals.py`` simulates the coverage: 92% or more; for strongly skewed unbounded
values, such as losses, 87% at 4 samples and 92% at 16. Samples are assumed independent, which overlapping prompts and
blocks of one text are not quite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.errors import DataError

__all__ = [
    "RATE",
    "TAIL",
    "Bounds",
    "Estimate",
    "Floats",
    "Spread",
    "estimate",
    "finite",
    "mean",
    "over_seeds",
    "rate_interval",
    "ratio",
    "student",
]

Floats = NDArray[np.float64]

Bounds = tuple[float, float]
RATE: Bounds = (0.0, 1.0)

TAIL = 0.025
"""Probability beyond either end of a 95% interval."""
_GROUPS = 200
"""Maximum number of groups that the jackknife leaves out; smaller sets are left out sample by sample."""
_ROUNDING = 1e-13
"""A standard error below this share of the value is rounding noise of equal samples."""
_MIN_DIFFERING = 16
"""Values that must differ from the most frequent one for the standard deviation to be reliable."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval.

    :param value: The number; infinite only for a perplexity beyond a float64.
    :param low: Lower end of the interval; None without an interval, as for a single sample.
    :param high: Upper end.
    :param n: Number of samples.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinity becomes null, which JSON lacks."""
        ends = {name: _plain(value) for name, value in (("value", self.value), ("low", self.low), ("high", self.high))}
        return {**ends, "n": self.n}


@dataclass(frozen=True)
class Spread:
    """The mean of a number over seeds.

    :param value: The mean.
    :param spread: Standard deviation over seeds (n - 1); None if a value is infinite.
    :param seeds: Number of seeds.
    """

    value: float
    spread: float | None
    seeds: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values; infinity becomes null, which JSON lacks."""
        return {"value": _plain(self.value), "spread": self.spread, "seeds": self.seeds}


def finite(values: ArrayLike, what: str) -> Floats:
    """Return values as float64 of the same shape.

    :param what: Names them in errors, such as ``losses``.
    :raises DataError: They are empty, or a value is infinite or NaN.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise DataError(f"there are no {what}", "Give the records of at least one sample.")
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise DataError(
            f"{bad} of {array.size} {what} are not finite", "Evaluate again: the weights are broken or overflow."
        )
    return array


def estimate(statistic: Callable[..., Any], *sizes: int, bounds: Bounds = (-math.inf, math.inf)) -> Estimate:
    """Return a smooth statistic of one or more independent groups of samples, with its interval.

    :param statistic: Takes one int64 array of sample positions per group, of shape (size,), and returns a float; so
        everything belonging to a sample is left out together.
    :param sizes: Number of samples per group. There is no interval with fewer than two in a group, or if an unbounded
        statistic stays the same whatever is left out.
    :param bounds: Bounds of the statistic.
    :raises DataError: A group is empty, or the statistic is not finite.
    """
    if 0 in sizes:
        raise DataError("there are no samples", "Give the records of at least one sample.")
    whole = [np.arange(size) for size in sizes]
    value = float(finite(statistic(*whole), "statistics"))
    if min(sizes) < 2:
        return Estimate(value, None, None, sum(sizes))
    variances, freedoms = [], []
    for number, size in enumerate(sizes):
        groups = np.array_split(np.random.default_rng(size).permutation(size), min(size, _GROUPS))
        values = np.asarray(
            [statistic(*whole[:number], np.delete(whole[number], group), *whole[number + 1 :]) for group in groups]
        )
        if not np.isfinite(values).all():
            return Estimate(value, None, None, sum(sizes))
        variances.append(float(((values - values.mean()) ** 2).sum()) * (len(groups) - 1) / len(groups))
        freedoms.append(len(groups) - 1)
    if math.sqrt(sum(variances)) <= abs(value) * _ROUNDING:
        return _widened(Estimate(value, None, None, sum(sizes)), np.full(sum(sizes), value), bounds)
    freedom = sum(variances) ** 2 / sum(v * v / f for v, f in zip(variances, freedoms, strict=True))
    return _between(value, student(freedom) * math.sqrt(sum(variances)), sum(sizes), bounds)


def mean(values: ArrayLike, bounds: Bounds = (-math.inf, math.inf)) -> Estimate:
    """Return the mean of samples of equal weight, with its interval.

    :param values: Shape (samples,).
    :param bounds: Bounds of each value.
    :raises DataError: They are empty, or a value is not finite.
    """
    array = finite(values, "values")
    return _widened(_ratio(array, np.ones(len(array)), bounds), array, bounds)


def ratio(sums: ArrayLike, counts: ArrayLike, bounds: Bounds = (-math.inf, math.inf)) -> Estimate:
    """Return the ratio of total sum to total count, such as the loss per token: longer samples weigh more.

    :param sums: Sum over the tokens of each sample, shape (samples,).
    :param counts: Tokens of each sample, positive, shape (samples,).
    :param bounds: Bounds of the value of each token.
    :raises DataError: They are empty, a value is not finite, or a count is not positive.
    """
    totals, tokens = finite(sums, "sums"), finite(counts, "counts")
    if tokens.min() <= 0:
        raise DataError("a sample has no tokens", "Remove samples without scored tokens from the records.")
    return _widened(_ratio(totals, tokens, bounds), totals / tokens, bounds)


def _ratio(sums: Floats, counts: Floats, bounds: Bounds) -> Estimate:
    """Return a ratio of sums with its interval, by the closed form of the jackknife."""
    size, value = len(sums), math.fsum(sums) / math.fsum(counts)
    if size < 2:
        return Estimate(value, None, None, size)
    without = (math.fsum(sums) - sums) / (math.fsum(counts) - counts)
    error = math.sqrt(float(((without - without.mean()) ** 2).sum()) * (size - 1) / size)
    if error <= abs(value) * _ROUNDING:
        return Estimate(value, None, None, size)
    return _between(value, student(size - 1) * error, size, bounds)


def _between(value: float, half: float, size: int, bounds: Bounds) -> Estimate:
    low, high = max(value - half, min(bounds[0], value)), min(value + half, max(bounds[1], value))
    return Estimate(value, low, high, size)


def _widened(result: Estimate, values: Floats, bounds: Bounds) -> Estimate:
    """Widen an estimate's interval to at least that of a rate if too few of its values differ."""
    low, width = bounds[0], bounds[1] - bounds[0]
    differing = len(values) - int(np.unique(values, return_counts=True)[1].max())
    if math.isinf(width) or len(values) < 2 or differing >= _MIN_DIFFERING:
        return result
    least, most = (low + width * end for end in rate_interval((result.value - low) / width, len(values)))
    return Estimate(
        result.value,
        least if result.low is None else min(result.low, least),
        most if result.high is None else max(result.high, most),
        result.n,
    )


def rate_interval(rate: float, size: int, tail: float = TAIL) -> tuple[float, float]:
    """Return the Clopper-Pearson interval; a rate between whole numbers of successes is interpolated.

    :param tail: Probability outside on each side.
    """
    from scipy.special import betaincinv  # late: it takes longer to import than everything else here

    hits = min(max(rate, 0.0), 1.0) * size
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if hits < size else 1.0
    return low, high


def student(freedom: float, tail: float = TAIL) -> float:
    """Return the quantile of Student's distribution that leaves ``tail`` above it.

    :param freedom: Degrees of freedom, positive, possibly fractional.
    :param tail: 0.025 for 95% on both sides.
    """
    from scipy.special import stdtrit  # late: see above

    return float(stdtrit(freedom, 1 - tail))


def over_seeds(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation (n - 1) of one number over seeds.

    :raises DataError: There are fewer than two values, or one is NaN.
    """
    if len(values) < 2:
        raise DataError(f"{len(values)} seed has no spread", "Give the records of at least two seeds.")
    if any(map(math.isnan, values)):
        raise DataError("a value of a seed is NaN", "Evaluate that seed again.")
    if any(map(math.isinf, values)):
        return Spread(math.inf, None, len(values))
    return Spread(math.fsum(values) / len(values), float(np.std(values, ddof=1)), len(values))


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
