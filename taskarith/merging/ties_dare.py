"""TIES, DARE, DELLA, Model Breadcrumbs, rows: part of each delta is kept, then deltas are added or a sign is elected.

Sources: TIES, arXiv:2306.01708; DARE, arXiv:2311.03099; DELLA, arXiv:2406.11617; Breadcrumbs, arXiv:2312.06795;
rows, corollary 2 of arXiv:2504.10957.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import xxhash

from taskarith.arithmetic.selection import Largest, keep_largest, largest_rows
from taskarith.merging.masks import Numbers, chances_by_rank, keep_by_chance, keep_by_rank
from taskarith.merging.operator import Room, Setting
from taskarith.merging.sums import elect, merged_sum

__all__ = [
    "Merger",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "kept_count",
    "rows",
    "ties",
]


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
        self._outer, self._inner, self._room = Largest(outer, elements), Largest(inner, elements), Room()

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return self._outer.is_known and self._inner.is_known

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece."""
        for one in (self._outer, self._inner):
            if not one.is_known:
                one.scan(values)

    def end_scan(self) -> None:
        """Finish one pass."""
        for one in (self._outer, self._inner):
            if not one.is_known:
                one.end_scan()

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        del start
        return keep_largest(values, self._outer, self._inner, weight, self._room.of(len(values)))


class ByChance:
    """Keep elements at random (DARE): the mask of a piece depends on what is in it, so one pass does.

    :param setting: Density, seed and rescaling.
    :param name: Name of the delta.
    """

    def __init__(self, setting: Setting, name: str) -> None:
        method = setting.method
        self._seed, self._density, self._rescale = method.seed or 0, method.density or 1.0, bool(method.rescale)
        self._name, self._room = name, Room()

    def is_ready(self) -> bool:
        """Return that no other pass is needed."""
        return True

    def scan(self, values: np.ndarray) -> None:
        """Collect nothing."""

    def end_scan(self) -> None:
        """Collect nothing."""

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        out = self._room.of(len(values))
        return keep_by_chance(values, start, self._numbers(values), self._density, self._rescale, weight, out)

    def _numbers(self, values: np.ndarray) -> Numbers:
        return Numbers(self._seed, self._name, xxhash.xxh3_128_hexdigest(values.data))


class ByRank(ByChance):
    """Keep elements at random, larger ones of a row more often (DELLA); a vector is one row."""

    def __init__(self, setting: Setting, name: str) -> None:
        super().__init__(setting, name)
        self._columns = setting.columns
        self._chances = chances_by_rank(self._columns, self._density, setting.method.epsilon or 0.0)

    def keep(self, start: int, values: np.ndarray, weight: float) -> np.ndarray:
        """Return the next piece times a weight, with zeros for what is not kept."""
        numbers = self._numbers(values).take(start, len(values)).reshape(-1, self._columns)
        rows, out = values.reshape(-1, self._columns), self._room.of(len(values))
        return keep_by_rank(rows, numbers, self._chances, self._rescale, weight, out)


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
        """Return whether no other pass is needed."""
        return self._kept is not None

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece."""
        self._squares.append(np.square(values.reshape(-1, self._columns)).sum(1))

    def end_scan(self) -> None:
        """Finish one pass."""
        squares, self._squares = np.concatenate(self._squares), []
        self._kept = largest_rows(squares, self._count)

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
    :param elects: Elect a sign for each element (the TIES kind), and normalise as ``sums.elect`` does; or add up, where
        ``normalize`` divides by the sum of all coefficients without alpha.
    :param span: Elements that belong together.
    """

    wants_base = False

    def __init__(self, setting: Setting, pruners: Sequence[Pruner], elects: bool, span: int = 1) -> None:
        self._setting, self._pruners = setting, pruners
        self._elects, self._normalize = elects, setting.method.normalize
        self.span, self._room = span, Room()

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return all(pruner.is_ready() for pruner in self._pruners)

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        del base
        for pruner, values in zip(self._pruners, deltas, strict=True):
            if not pruner.is_ready():
                pruner.scan(values)

    def end_scan(self) -> None:
        """Finish one pass."""
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
        out = self._room.of(len(parts[0]))
        if self._elects:
            return elect(parts, setting.weights, setting.alpha, self._normalize, out)
        total = merged_sum(parts, out)
        if self._normalize:
            total /= math.fsum(w / setting.alpha for w in (*setting.weights, *setting.absent))
        return total


def _merger(
    pruner: Callable[[Setting, str], Pruner], *, elects: bool, by_row: bool = False
) -> Callable[[Setting], Merger]:
    """Return the operator that prunes each delta in one way and merges them."""

    def operator(setting: Setting) -> Merger:
        pruners = [pruner(setting, name) for name in setting.names]
        return Merger(setting, pruners, elects, setting.columns if by_row else 1)

    return operator


def _by_magnitude(setting: Setting, name: str) -> ByMagnitude:
    del name
    return ByMagnitude(setting.elements, setting.method.density or 1.0, setting.method.gamma)


ties = _merger(_by_magnitude, elects=True)
"""Keep the largest magnitudes, elect signs, and merge what agrees."""

breadcrumbs = _merger(_by_magnitude, elects=False)
"""Keep the largest magnitudes but for the very largest, and add up."""

breadcrumbs_ties = _merger(_by_magnitude, elects=True)
"""Keep the largest magnitudes but for the very largest, elect signs, and merge what agrees."""

dare_linear = _merger(ByChance, elects=False)
"""Drop elements at random and add up."""

dare_ties = _merger(ByChance, elects=True)
"""Drop elements at random, elect signs, and merge what agrees."""

della = _merger(ByRank, elects=True, by_row=True)
"""Drop elements at random, smaller ones more often, elect signs, and merge what agrees."""

della_linear = _merger(ByRank, elects=False, by_row=True)
"""Drop elements at random, smaller ones more often, and add up."""


def rows(setting: Setting) -> Merger:
    """Keep the rows of matrices that have the largest norms, and all of any other tensor, and add up."""
    columns, is_matrix = setting.columns, len(setting.shape) > 1 and setting.elements > 0
    count, density = (setting.elements // columns, setting.method.density or 1.0) if is_matrix else (1, 1.0)
    pruners = [ByRow(count, columns, density) for _ in setting.names]
    return Merger(setting, pruners, False, columns)
