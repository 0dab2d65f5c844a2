"""What an attack brings back as a share of what the edit took away, with intervals that know both are measured.

A share is a quotient of two differences between models on the same samples, and means nothing where the lower one, what
there is to bring back, may be 0. Its interval is Fieller's (1954): all shares r for which above - r * below is not
apart from 0 by Student's t. It is bounded just where below is apart from 0; elsewhere there is no share. Samples of
several models are paired by what they are of. ``tests/evaluation/metrics/test_intervals.py`` simulates the coverage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskarith.evaluation.metrics.intervals import TAIL, student

__all__ = ["TELLING", "Level", "Share", "difference", "interval_of", "level", "share"]

TELLING = 3
"""So many samples must differ from what most of them bring back for their spread to be known."""


@dataclass(frozen=True)
class Level:
    """A mean, or a difference of means, that knows what each sample does to it.

    :param value: The number.
    :param influences: Of each sample, by its name: what it adds to the deviation of the value; they sum to 0.
    :param sums: What each sample has of what is summed up; of a difference, the difference.
    :param n: Samples; of a difference, of the side with fewer.
    """

    value: float
    influences: Mapping[str, float]
    sums: Mapping[str, float]
    n: int

    @property
    def differing(self) -> int:
        """Samples of which the sum differs from the most frequent one."""
        return len(self.sums) - max(Counter(self.sums.values()).values())


@dataclass(frozen=True)
class Share:
    """A quotient of two differences, and what its interval is made of.

    :param above: What came back.
    :param below: What there was to bring back.
    :param variances: Of ``above``, of both together (covariance), and of ``below``.
    :param n: Samples of the side with fewest.
    :param differing: Samples of which what came back differs from what came back most often, as nothing does.
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
        """Return Fieller's interval; None where it is not bounded, and where hardly any sample differs.

        :param tail: What may lie on either side: 0.025 for 95%.
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
    """Return sum / count over all samples, as of losses by token.

    :param names: Of the samples, each once.
    :param sums: Of each sample.
    :param counts: Of each sample, positive; 1 for plain means.
    """
    total = math.fsum(counts)
    value = math.fsum(sums) / total
    return Level(
        value,
        {name: (one - value * count) / total for name, one, count in zip(names, sums, counts, strict=True)},
        dict(zip(names, sums, strict=True)),
        len(names),
    )


def difference(one: Level, other: Level) -> Level:
    """Return one - other; what a sample does to both is paired."""
    return Level(
        one.value - other.value,
        _less(one.influences, other.influences),
        _less(one.sums, other.sums),
        min(one.n, other.n),
    )


def _less(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) - other.get(name, 0.0) for name in dict.fromkeys([*one, *other])}


def share(above: Level, below: Level) -> Share:
    """Return above / below, which must not be 0."""
    n = min(above.n, below.n)
    names = dict.fromkeys([*above.influences, *below.influences])
    pairs = [(above.influences.get(name, 0.0), below.influences.get(name, 0.0)) for name in names]
    scale = n / max(n - 1, 1)
    a, b, c = (math.fsum(products) * scale for products in zip(*((x * x, x * y, y * y) for x, y in pairs), strict=True))
    return Share(above.value, below.value, (a, b, c), n, above.differing)


def interval_of(one: Level) -> tuple[float, float] | None:
    """Return Student's interval of a level; None of a single sample."""
    if one.n < 2:
        return None
    squares = math.fsum(influence * influence for influence in one.influences.values())
    half = student(one.n - 1, TAIL) * math.sqrt(squares * one.n / (one.n - 1))
    return one.value - half, one.value + half
