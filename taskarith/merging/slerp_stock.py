"""SLERP, the Karcher mean and Model Stock: angles between models, over the whole tensor, decide how they are mixed.

Sources: SLERP, Shoemake, SIGGRAPH 1985, and the Karcher mean, Karcher, Communications on Pure and Applied Mathematics
30, 1977, of weights as in mergekit; Model Stock, arXiv:2403.19522.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from taskarith.merging.operator import Setting
from taskarith.merging.sums import ordered_sum

__all__ = ["Karcher", "ModelStock", "NuSlerp", "Products", "Slerp", "karcher_shares", "slerp_shares", "stock_ratio"]

_STRAIGHT = 0.9995
"""A cosine beyond which the way is taken straight, as in mergekit: the sines would vanish."""

_COLINEAR, _LEAST_NORM = 1e-8, 1e-7
"""Of NuSLERP, as in mergekit: the sine below which the way is straight, and the least norm to divide by."""

_TOLERANCE, _STEPS = 1e-5, 10
"""Of the Karcher mean, mergekit's defaults: below which a norm, an angle or a step counts as zero; steps at most."""


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


def karcher_shares(gram: np.ndarray, weights: Sequence[float]) -> list[float]:
    """Return the factors of vectors in the Karcher mean of their directions, which has the mean of their norms.

    The mean minimises the weighted squares of the angles to the directions; it is found by steps along the tangent,
    from their normalised sum on. Everything is a combination of the vectors, so that their scalar products suffice.
    All sums are rounded once: no bit depends on the order of the vectors.

    :param gram: Their scalar products, n x n.
    :param weights: Of each, not negative; their sum is 1.
    :returns: The weights where the directions cancel each other and have no mean (mergekit takes the first direction).
    """
    norms = np.sqrt(np.diag(gram))
    known = norms > _TOLERANCE
    if not known.any():
        return [0.0] * len(norms)
    shares, cosines = np.array(weights)[known], (gram / np.outer(norms, norms).clip(_TOLERANCE**2))[known][:, known]
    shares /= math.fsum(shares)

    def norm(combination: np.ndarray) -> float:
        return math.sqrt(max(0.0, math.fsum((np.outer(combination, combination) * cosines).flat)))

    if norm(shares) < _TOLERANCE:
        return list(weights)
    mean = shares / norm(shares)
    for _ in range(_STEPS):
        overlaps = np.array([math.fsum(row * mean) for row in cosines]).clip(-1.0, 1.0)
        angles = np.arccos(overlaps)
        sines = np.sin(angles)
        pulls = shares * np.divide(angles, sines, out=np.zeros_like(angles), where=sines >= _TOLERANCE)
        step = pulls - math.fsum(pulls * overlaps) * mean
        if (length := norm(step)) < _TOLERANCE:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * step
        mean /= norm(mean)
    factors = np.zeros(len(norms))
    factors[known] = math.fsum(np.array(weights) * norms) * mean / norms[known]
    return factors.tolist()


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


class _BetweenModels(ABC):
    """Base of operators that go to a point between models, which the angles between these decide.

    The point is the sum of the models, each times a factor. Coefficients say how near it is to each: only what share
    each has of their sum counts. Alpha multiplies the difference between that point and the base.

    :param setting: What is known of the tensor.
    """

    span = 1
    wants_base = True

    def __init__(self, setting: Setting) -> None:
        rest = math.fsum(setting.absent)
        weights = (*setting.weights, rest) if rest else setting.weights
        total = math.fsum(weights)
        self._shares = [weight / total for weight in weights]
        self._alpha, self._products = setting.alpha, Products(len(weights))
        self._factors: list[float] | None = None if len(weights) > 1 else self._shares

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return self._factors is not None

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece; a model that does not move the tensor has the base's."""
        if base is not None:
            ends = [base + delta for delta in deltas]
            self._products.add(ends if len(ends) == len(self._shares) else [*ends, base])

    def end_scan(self) -> None:
        """Find the factors."""
        self._factors = self._decide(self._products)

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start
        factors = self._factors or self._shares
        total = ordered_sum([factor * delta for factor, delta in zip(factors, deltas, strict=False)])
        if base is not None and len(factors) > 1 and (excess := math.fsum(factors) - 1.0):
            total += excess * base
        return total if self._alpha == 1.0 else self._alpha * total

    @abstractmethod
    def _decide(self, products: Products) -> list[float]:
        """Return the factor of each model."""


class Slerp(_BetweenModels):
    """The point between two models A and B on the arc around zero, by tensor: all weights of a tensor are one vector.

    ``A:0.7`` and ``B:0.3`` are mergekit's ``t: 0.3`` from A to B.
    """

    def _decide(self, products: Products) -> list[float]:
        return list(slerp_shares((self._shares[0], self._shares[1]), products.cosine(0, 1)))


class NuSlerp(_BetweenModels):
    """The point between two deltas on the arc around the base: mergekit's ``nuslerp`` with a ``base_model``."""

    wants_base = False

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece; a delta that does not move the tensor is zero."""
        del base
        self._products.add(deltas if len(deltas) == 2 else [*deltas, np.zeros(len(deltas[0]))])

    def _decide(self, products: Products) -> list[float]:
        one, two = (max(_LEAST_NORM, math.sqrt(products.sum(end, end))) for end in (0, 1))
        angle = math.acos(max(-1.0, min(1.0, products.sum(0, 1) / (one * two))))
        if math.sin(angle) < _COLINEAR:
            return self._shares
        return [math.sin(share * angle) / math.sin(angle) for share in self._shares]


class Karcher(_BetweenModels):
    """The Karcher mean of the models, by tensor: all weights of a tensor are one vector (mergekit's ``karcher``).

    mergekit weighs all models alike; here coefficients weigh them.
    """

    def _decide(self, products: Products) -> list[float]:
        count = len(self._shares)
        gram = [[products.sum(one, two) for two in range(count)] for one in range(count)]
        return karcher_shares(np.array(gram), self._shares)


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
        """Return whether no other pass is needed."""
        return self._is_ready

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        del base
        self._products.add(deltas)

    def end_scan(self) -> None:
        """Finish one pass."""
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
