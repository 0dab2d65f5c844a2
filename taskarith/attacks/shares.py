"""Shares of what the edit removed that an attack recovers, with intervals that account for the error of both.

A share is a quotient of two differences between models on the same samples, and undefined if the denominator, what can
be recovered, may be 0. Its interval is Fieller's (1954): all shares r for which above - r * below does not differ
significantly from 0 by Student's t. It is bounded exactly if below differs significantly from 0; otherwise there is no
share. Samples of several models are paired by name. ``tests/evaluation/metrics/test_intervals.py``
simulates the coverage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskarith.evaluation.metrics.intervals import TAIL, student

__all__ = ["TELLING", "Level", "Share", "difference", "interval_of", "level", "share"]

TELLING = 3
"""Samples that must differ from the most frequent value for their spread to be known."""


@dataclass(frozen=True)
class Level:
    """A mean, or a difference of means, with the influence of each sample.

    :param value: The number.
    :param influences: Contribution of each sample to the deviation of the value; they sum to 0.
    :param sums: Sum of each sample, or the difference of sums.
    :param n: Number of samples; for a difference, of the smaller side.
    """

    value: float
    influences: Mapping[str, float]
    sums: Mapping[str, float]
    n: int

    @property
    def differing(self) -> int:
        """Number of samples whose sum differs from the most frequent level."""
        return len(self.sums) - max(Counter(self.sums.values()).values())


@dataclass(frozen=True)
class Share:
    """A quotient of two differences, with the moments of its interval.

    :param above: What was recovered.
    :param below: What could be recovered.
    :param variances: Variance of ``above``, covariance of both, and variance of ``below``.
    :param n: Number of samples of the smallest side.
    :param differing: Number of samples whose recovery differs from the most frequent one, such as none.
    """

    above: float
    below: float
    variances: tuple[float, float, float]
    n: int
    differing: int

    @property
    def value(self) -> float:
        """The share."""
        return self.above / self.below + 0.0

    def interval(self, tail: float = TAIL) -> tuple[float, float] | None:
        """Return Fieller's interval; None if it is unbounded or too few samples differ.

        :param tail: Probability outside on each side: 0.025 for 95%.
        """
        if self.n < 2 or self.differing < TELLING:
            return None
        t2 = student(self.n - 1, tail) ** 2
        above, both, below = self.variances
        square, line = self.below**2 - t2 * below, self.above * self.below - t2 * both
        root = line**2 - square * (self.above**2 - t2 * above)
        if square <= 0 or root < 0:
            return None
        return (line - math.sqrt(root)) / square, (line + math.sqrt(root)) / square


def level(names: Sequence[str], sums: Sequence[float], counts: Sequence[float]) -> Level:
    """Return the ratio of total sum to total count, such as the loss per token.

    :param names: Unique names of the samples.
    :param sums: Sum of each sample.
    :param counts: Count of each sample, positive; 1 for plain means.
    """
    total = math.fsum(counts)
    value = math.fsum(sums) / total
    return Level(
        value,
        {name: (part - value * count) / total for name, part, count in zip(names, sums, counts, strict=True)},
        dict(zip(names, sums, strict=True)),
        len(names),
    )


def difference(first: Level, second: Level) -> Level:
    """Return first - second, with samples paired by name."""
    return Level(
        first.value - second.value,
        _subtract(first.influences, second.influences),
        _subtract(first.sums, second.sums),
        min(first.n, second.n),
    )


def _subtract(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {name: first.get(name, 0.0) - second.get(name, 0.0) for name in dict.fromkeys([*first, *second])}


def share(above: Level, below: Level) -> Share:
    """Return above / below, which must not be 0."""
    n = min(above.n, below.n)
    names = dict.fromkeys([*above.influences, *below.influences])
    pairs = [(above.influences.get(name, 0.0), below.influences.get(name, 0.0)) for name in names]
    scale = n / max(n - 1, 1)
    a, b, c = (math.fsum(products) * scale for products in zip(*((x * x, x * y, y * y) for x, y in pairs), strict=True))
    return Share(above.value, below.value, (a, b, c), n, above.differing)


def interval_of(level: Level) -> tuple[float, float] | None:
    """Return the Student's t interval of a level; None for a single sample."""
    if level.n < 2:
        return None
    squares = math.fsum(influence * influence for influence in level.influences.values())
    half = student(level.n - 1, TAIL) * math.sqrt(squares * level.n / (level.n - 1))
    return level.value - half, level.value + half
