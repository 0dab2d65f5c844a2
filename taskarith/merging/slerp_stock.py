"""SLERP, the Karcher mean and Model Stock: angles between models, over the whole tensor, decide how they are mixed.

Sources: SLERP, Shoemake, SIGGRAPH 1985, and the Karcher mean, Karcher, Communications on Pure and Applied Mathematics
30, 1977, of weights as in mergekit; Model Stock, arXiv:2403.19522.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from taskarith.merging.combination import Combination, Products
from taskarith.merging.operator import Setting

__all__ = ["Karcher", "ModelStock", "NuSlerp", "Slerp", "karcher_shares", "slerp_shares", "stock_ratio"]

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


class _BetweenModels(Combination):
    """Base of operators that go to a point between models, which the angles between these decide.

    The point is the sum of the models, each times a factor. Coefficients say how near it is to each: only what share
    each has of their sum counts. Alpha multiplies the difference between that point and the base. A model that does not
    move the tensor has the base's.

    :param setting: What is known of the tensor.
    """

    wants_base = True

    def __init__(self, setting: Setting) -> None:
        rest = math.fsum(setting.absent)
        weights = (*setting.weights, rest) if rest else setting.weights
        total = math.fsum(weights)
        self._shares = [weight / total for weight in weights]
        super().__init__(setting, len(weights))
        self._ends: list[np.ndarray] = []
        if len(weights) == 1:
            self._factors = [setting.alpha], 0.0

    def _vectors(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> Sequence[np.ndarray]:
        if base is None:
            raise AssertionError("a point between models needs the base")
        if not self._ends:
            self._ends = [np.empty(len(base)) for _ in deltas]
        ends = [np.add(base, delta, out=end[: len(base)]) for delta, end in zip(deltas, self._ends, strict=True)]
        return ends if len(ends) == len(self._shares) else [*ends, base]

    def _decide(self, products: Products) -> tuple[list[float], float]:
        factors, alpha = self._between(products), self._setting.alpha
        excess = math.fsum(factors) - 1.0 if self.wants_base else 0.0
        return [alpha * factor for factor in factors[: len(self._setting.weights)]], alpha * excess

    @abstractmethod
    def _between(self, products: Products) -> list[float]:
        """Return the factor of each model."""


class Slerp(_BetweenModels):
    """The point between two models A and B on the arc around zero, by tensor: all weights of a tensor are one vector.

    ``A:0.7`` and ``B:0.3`` are mergekit's ``t: 0.3`` from A to B.
    """

    def _between(self, products: Products) -> list[float]:
        return list(slerp_shares((self._shares[0], self._shares[1]), products.cosine(0, 1)))


class NuSlerp(_BetweenModels):
    """The point between two deltas on the arc around the base: mergekit's ``nuslerp`` with a ``base_model``."""

    wants_base = False

    def _vectors(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> Sequence[np.ndarray]:
        del base
        return deltas if len(deltas) == 2 else [*deltas, np.zeros(len(deltas[0]))]

    def _between(self, products: Products) -> list[float]:
        one, two = (max(_LEAST_NORM, math.sqrt(products.sum(end, end))) for end in (0, 1))
        angle = math.acos(max(-1.0, min(1.0, products.sum(0, 1) / (one * two))))
        if math.sin(angle) < _COLINEAR:
            return self._shares
        return [math.sin(share * angle) / math.sin(angle) for share in self._shares]


class Karcher(_BetweenModels):
    """The Karcher mean of the models, by tensor: all weights of a tensor are one vector (mergekit's ``karcher``).

    mergekit weighs all models alike; here coefficients weigh them.
    """

    def _between(self, products: Products) -> list[float]:
        return karcher_shares(products.gram(range(len(self._shares))), self._shares)


class ModelStock(Combination):
    """``t`` times the mean of the deltas, by tensor (the paper's layer-wise form, as in mergekit without filter_wise).

    Coefficients multiply the deltas before; alpha multiplies the result. An operand that does not move the tensor
    counts as a delta of zeros, whose cosine with any other is zero.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, len(setting.weights))

    def _decide(self, products: Products) -> tuple[list[float], float]:
        weights, count = self._setting.weights, self._setting.count
        cosines = [
            math.copysign(1.0, weights[first] * weights[second]) * products.cosine(first, second)
            for first, second in itertools.combinations(range(len(weights)), 2)
        ]
        ratio = stock_ratio(cosines, count) / count
        return [weight * ratio for weight in weights], 0.0
