"""SLERP and Model Stock: the angle between models, measured over the whole tensor, decides how they are mixed.

Sources: SLERP, Shoemake, SIGGRAPH 1985, of weights as in mergekit; Model Stock, arXiv:2403.19522.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from taskarith.merging.operator import Setting
from taskarith.merging.sums import ordered_sum

__all__ = ["ModelStock", "Products", "Slerp", "slerp_shares", "stock_ratio"]

_STRAIGHT = 0.9995
"""A cosine beyond which the way is taken straight, as in mergekit: the sines would vanish."""


def slerp_shares(shares: tuple[float, float], cosine: float) -> tuple[float, float]:
    """Return what the two ends are multiplied by: ``sin(share * angle) / sin(angle)``.

    :param shares: How near the point is to each end; their sum is 1.
    :param cosine: Of the angle between the ends.
    """
    if 0.0 in shares or abs(cosine) > _STRAIGHT:
        return shares
    angle = math.acos(cosine)
    first, second = (math.sin(share * angle) / math.sin(angle) for share in shares)
    return first, second


def stock_ratio(cosines: Sequence[float], count: int) -> float:
    """Return t of ``t * mean + (1 - t) * base``: ``k cos / (1 + (k - 1) cos)``, with the mean cosine of all pairs.

    Zero where the divisor nearly vanishes, as in mergekit.

    :param cosines: Of the angles between any two of the deltas, in any order.
    :param count: Number k of the models.
    """
    cosine = math.fsum(cosines) / (count * (count - 1) // 2)
    divisor = 1 + (count - 1) * cosine
    return count * cosine / divisor if abs(divisor) >= 1e-6 else 0.0


class Products:
    """Sums of the products of any two rows; pieces are cut at fixed places, so that the sums have fixed bits."""

    def __init__(self, count: int) -> None:
        self._pairs = list(itertools.combinations_with_replacement(range(count), 2))
        self._sums = dict.fromkeys(self._pairs, 0.0)

    def add(self, rows: Sequence[np.ndarray]) -> None:
        """Add the next piece of each row."""
        for first, second in self._pairs:
            self._sums[first, second] += float(np.sum(rows[first] * rows[second]))

    def sum(self, first: int, second: int) -> float:
        """Return the scalar product of two rows."""
        return self._sums[min(first, second), max(first, second)]

    def cosine(self, first: int, second: int) -> float:
        """Return the cosine of the angle between two rows, the first before the second; 0 where one is zero."""
        norms = math.sqrt(self._sums[first, first]) * math.sqrt(self._sums[second, second])
        return max(-1.0, min(1.0, self._sums[first, second] / norms)) if norms else 0.0


class Slerp:
    """The point between two models A and B on the arc around zero, by tensor: all weights of a tensor are one vector.

    Coefficients say how near it is to each: ``A:0.7`` and ``B:0.3`` are mergekit's ``t: 0.3`` from A to B. Alpha
    multiplies the difference between that point and the base.
    """

    span = 1
    wants_base = True

    def __init__(self, setting: Setting) -> None:
        weights = (*setting.weights, *setting.absent)
        self._shares = (weights[0] / (weights[0] + weights[1]), weights[1] / (weights[0] + weights[1]))
        self._alpha = setting.alpha
        self._products = Products(2)
        self._factors: tuple[float, float] = self._shares
        self._is_ready = 0.0 in self._shares

    def is_ready(self) -> bool:
        """Return whether no other reading is needed."""
        return self._is_ready

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        if base is not None:
            ends = [base + delta for delta in deltas]
            self._products.add(ends if len(ends) == 2 else [*ends, base])

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        self._factors, self._is_ready = slerp_shares(self._shares, self._products.cosine(0, 1)), True

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start
        first, second = self._factors
        total = first * deltas[0]
        if len(deltas) == 2:
            total += second * deltas[1]
        if base is not None and 0.0 not in self._shares and (excess := first + second - 1.0):
            total += excess * base
        return total if self._alpha == 1.0 else self._alpha * total


class ModelStock:
    """``t`` times the mean of the deltas, by tensor (the paper's layer-wise form, as in mergekit without filter_wise).

    Coefficients multiply the deltas before; alpha multiplies the result. An operand that does not move the tensor
    counts as a delta of zeros, whose cosine with any other is zero.
    """

    span = 1
    wants_base = False

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._products = Products(len(setting.weights))
        self._ratio, self._is_ready = 0.0, False

    def is_ready(self) -> bool:
        """Return whether no other reading is needed."""
        return self._is_ready

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        del base
        self._products.add(deltas)

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        weights = self._setting.weights
        cosines = [
            math.copysign(1.0, weights[first] * weights[second]) * self._products.cosine(first, second)
            for first, second in itertools.combinations(range(len(weights)), 2)
        ]
        self._ratio, self._is_ready = stock_ratio(cosines, self._setting.count), True

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start, base
        parts = [weight * delta for weight, delta in zip(self._setting.weights, deltas, strict=True)]
        return ordered_sum(parts) * (self._ratio / self._setting.count)
