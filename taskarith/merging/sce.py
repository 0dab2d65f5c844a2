"""SCE: select elements that vary between the deltas, calculate a weight of each delta, erase what disagrees in sign.

Source: SCE merging, arXiv:2408.07990, by the numbers of mergekit's ``sce``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from taskarith.arithmetic.selection import Largest
from taskarith.merging.operator import Setting
from taskarith.merging.sums import ordered_sum

__all__ = ["Sce"]

_LEAST = 1e-6
"""As in mergekit: mean squares whose sum is less weigh all deltas alike; the least divisor."""


class Sce:
    """The weighted mean of the deltas that agree with the elected sign, where their variance is largest.

    Of the v elements whose variance over the deltas is not zero the ``floor(density v)`` with the largest one are kept;
    at density 1 all are. A delta weighs what the mean of its squares, zeros included, is of the sum of these. The sign
    is that of the sum of the deltas, and zero elects plus. Coefficients multiply the deltas before (mergekit has none),
    alpha multiplies the result; an operand that does not move the tensor counts as a delta of zeros.

    :param setting: What is known of the tensor.
    """

    span = 1
    wants_base = False

    def __init__(self, setting: Setting) -> None:
        self._setting, self._density = setting, setting.method.density or 1.0
        self._coefficients = [weight / setting.alpha for weight in setting.weights]
        self._varying = 0
        self._selects = self._density < 1
        self._largest: Largest | None = None
        self._squares: list[list[float]] = [[] for _ in setting.weights]
        self._weights: list[float] | None = None

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return self._weights is not None

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Count the elements that vary; find those that vary most; then take the mean squares of these."""
        del base
        parts = self._scaled(deltas)
        if self._selects and self._largest is None:
            self._varying += int(np.count_nonzero(self._variance(parts)))
        elif self._largest is not None and not self._largest.is_known:
            self._largest.scan(self._variance(parts))
        else:
            for squares, part in zip(self._squares, self._selected(parts), strict=True):
                squares.append(float(np.sum(part * part)))

    def end_scan(self) -> None:
        """Finish one pass."""
        setting = self._setting
        if self._selects and self._largest is None:
            self._largest = Largest(int(self._varying * self._density), setting.elements)
        elif self._largest is not None and not self._largest.is_known:
            self._largest.end_scan()
        else:
            means = [math.fsum(squares) / max(1, setting.elements) for squares in self._squares]
            total = math.fsum(means)
            self._weights = [1 / setting.count if total < _LEAST else mean / total for mean in means]
            if self._largest is not None:
                self._largest.rewind()

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start, base
        parts = self._selected(self._scaled(deltas))
        is_plus = ordered_sum(parts) >= 0
        agreeing = [np.where(is_plus, part > 0, part < 0) for part in parts]
        weights = self._weights or []
        merged = [weight * part * agrees for weight, part, agrees in zip(weights, parts, agreeing, strict=True)]
        divisor = ordered_sum([weight * agrees for weight, agrees in zip(weights, agreeing, strict=True)])
        return self._setting.alpha * (ordered_sum(merged) / np.maximum(divisor, _LEAST))

    def _scaled(self, deltas: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [coefficient * delta for coefficient, delta in zip(self._coefficients, deltas, strict=True)]

    def _variance(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        count = self._setting.count
        parts = [*parts, *[np.zeros(len(parts[0]))] * (count - len(parts))]
        least = np.minimum.reduce(parts)  # where all are equal, no sum is rounded and the variance is zero
        parts = [part - least for part in parts]
        mean = ordered_sum(parts) / count
        return ordered_sum([np.square(part - mean) for part in parts]) / count

    def _selected(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        if self._largest is None:
            return parts
        kept = self._largest.mask(self._variance(parts))
        return [part * kept for part in parts]
