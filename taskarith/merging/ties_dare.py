"""TIES, DARE, DELLA, Model Breadcrumbs, rows: part of each delta is kept, then deltas are added or a sign is elected.

Sources: TIES, arXiv:2306.01708; DARE, arXiv:2311.03099; DELLA, arXiv:2406.11617; Breadcrumbs, arXiv:2312.06795;
rows, corollary 2 of arXiv:2504.10957.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xxhash

from taskarith.arithmetic.selection import Largest
from taskarith.merging.masks import Numbers, keep_by_chance, keep_by_rank
from taskarith.merging.operator import Setting
from taskarith.merging.sums import elect, ordered_sum

__all__ = ["ByChance", "ByMagnitude", "ByRank", "ByRow", "Merger", "Pruner", "kept_count"]


def kept_count(density: float, elements: int) -> int:
    """Return how many elements TIES keeps: ``density * elements``, rounded down, at least one, as in mergekit."""
    return max(1, int(density * elements))


class ByMagnitude:
    """Keep the largest magnitudes of a tensor (TIES), without the very largest (breadcrumbs).

    Of n elements TIES keeps ``max(1, floor(density n))``. Breadcrumbs leaves out the largest ``floor(gamma n)``, or
    fewer where not enough would be left, and keeps the next ``floor(density n)``; at density 1 it keeps all. Both are
    mergekit's numbers. Of equal magnitudes those that come first are taken for larger.
    """

    def __init__(self, elements: int, density: float, gamma: float | None) -> None:
        if gamma is None or density >= 1:
            outer, inner = kept_count(density, elements), 0
        else:
            target = int(density * elements)
            inner = min(int(gamma * elements), elements - target)
            outer = inner + target
        self._has_inner = inner > 0
        self._outer, self._inner = Largest(outer, elements), Largest(inner, elements)

    def is_ready(self) -> bool:
        """Return whether no other reading is needed."""
        return self._outer.is_known and self._inner.is_known

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece."""
        for one in (self._outer, self._inner):
            if not one.is_known:
                one.scan(values)

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        for one in (self._outer, self._inner):
            if not one.is_known:
                one.end_scan()

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        del start
        kept = self._outer.mask(values)
        if self._has_inner:
            kept &= ~self._inner.mask(values)
        return values * kept * weight


class ByChance:
    """Keep elements at random (DARE): the mask of a piece depends on what is in it, so it is read once."""

    def __init__(self, seed: int, name: str, density: float, rescale: bool) -> None:
        self._seed, self._name, self._density, self._rescale = seed, name, density, rescale

    def is_ready(self) -> bool:
        """Return that no other reading is needed."""
        return True

    def scan(self, values: np.ndarray) -> None:
        """Do nothing."""

    def end_scan(self) -> None:
        """Do nothing."""

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        return keep_by_chance(values, start, self._numbers(values), self._density, self._rescale, weight)

    def _numbers(self, values: np.ndarray) -> Numbers:
        return Numbers(self._seed, self._name, xxhash.xxh3_128_hexdigest(values.data))


class ByRank(ByChance):
    """Keep elements at random, larger ones of a row more often (DELLA); a vector is one row."""

    def __init__(self, seed: int, name: str, density: float, rescale: bool, epsilon: float, columns: int) -> None:
        super().__init__(seed, name, density, rescale)
        self._epsilon, self._columns = epsilon, columns

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        numbers = self._numbers(values).take(start, len(values)).reshape(-1, self._columns)
        rows = values.reshape(-1, self._columns)
        return keep_by_rank(rows, numbers, self._density, self._epsilon, self._rescale).ravel() * weight


class ByRow:
    """Keep the rows of a matrix that have the largest norms; of equal ones those that come first.

    Of n rows ``max(1, round(density n))`` are kept, as by ``extract --rows``.

    :param rows: Their number.
    :param columns: Length of each; pieces hold whole rows.
    :param density: Share of the rows that is kept.
    """

    def __init__(self, rows: int, columns: int, density: float) -> None:
        self._columns, self._count = columns, max(1, round(density * rows))
        self._squares: list[np.ndarray] = []
        self._kept: np.ndarray | None = np.ones(rows, bool) if self._count >= rows else None

    def is_ready(self) -> bool:
        """Return whether no other reading is needed."""
        return self._kept is not None

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece."""
        self._squares.append(np.square(values.reshape(-1, self._columns)).sum(1))

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        squares, self._squares = np.concatenate(self._squares), []
        self._kept = np.zeros(len(squares), bool)
        self._kept[np.argsort(-squares, kind="stable")[: self._count]] = True

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        if self._kept is None:
            return values * weight
        first = start // self._columns
        rows = values.reshape(-1, self._columns)
        return (rows * self._kept[first : first + len(rows), None]).ravel() * weight


Pruner = ByMagnitude | ByChance | ByRank | ByRow


class Merger:
    """Prunes each delta, multiplies it by its weight, and adds them up or elects a sign.

    :param setting: What is known of the tensor.
    :param pruners: One a delta.
    :param elects: Elect a sign for each element (the TIES kind) or add up.
    :param normalize: See ``combine.elect``; where all is added up, True divides by the sum of all coefficients without
        alpha, and None is as False.
    :param span: Elements that belong together.
    """

    wants_base = False

    def __init__(
        self, setting: Setting, pruners: Sequence[Pruner], elects: bool, normalize: bool | None, span: int = 1
    ) -> None:
        self._setting, self._pruners = setting, pruners
        self._elects, self._normalize = elects, normalize
        self.span = span

    def is_ready(self) -> bool:
        """Return whether no other reading is needed."""
        return all(pruner.is_ready() for pruner in self._pruners)

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        del base
        for pruner, values in zip(self._pruners, deltas, strict=True):
            if not pruner.is_ready():
                pruner.scan(values)

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        for pruner in self._pruners:
            if not pruner.is_ready():
                pruner.end_scan()

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del base
        setting = self._setting
        parts = [
            pruner.keep(start, values, weight)
            for pruner, values, weight in zip(self._pruners, deltas, setting.weights, strict=True)
        ]
        if self._elects:
            return elect(parts, setting.weights, setting.alpha, self._normalize)
        total = ordered_sum(parts)
        return (
            total / math.fsum(w / setting.alpha for w in (*setting.weights, *setting.absent))
            if self._normalize
            else total
        )
