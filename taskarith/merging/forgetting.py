"""Operators for forgetting: what several forget vectors agree on, what is not shared with others, what matters least.

Sources: NegMerge, arXiv:2410.05583; removal of what task vectors share, the idea of arXiv:2512.22511; PerTA,
arXiv:2601.22030.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xxhash

from taskarith.errors import MismatchError
from taskarith.merging.combination import Combination, Products
from taskarith.merging.operator import Setting, SinglePass
from taskarith.merging.sums import ordered_sum

__all__ = ["NegMerge", "PerParameter", "Project", "shared_part"]


def shared_part(gram: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Return the coefficients c of the combination of some vectors that is nearest to another one.

    ``gram c = overlap`` in the least-squares sense, so that vectors that repeat each other do no harm.

    :param gram: Their scalar products, n x n.
    :param overlap: Their scalar products with the other vector, n.
    """
    squares = np.diag(gram)
    sizes = np.exp2(np.round(np.log2(np.where(squares > 0, squares, 1.0)) / 2))  # powers of two round nothing
    found, *_ = np.linalg.lstsq(gram / np.outer(sizes, sizes), overlap / sizes, rcond=1e-10)
    return found / sizes


class NegMerge(SinglePass):
    """The mean of the weighted deltas where all of them have one sign, zero elsewhere.

    The vectors are fine-tunes on one forget set with different settings; an operand that does not move the tensor
    agrees with none. The paper's code is not public; its formula weighs all vectors alike.
    """

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start, base
        parts, _ = self._weighted(deltas)
        if self._setting.count > len(parts):
            return np.zeros(len(parts[0]))
        agree = np.logical_and.reduce([part > 0 for part in parts])
        agree |= np.logical_and.reduce([part < 0 for part in parts])
        return ordered_sum(parts) * agree / len(parts)


class PerParameter(SinglePass):
    """The sum of the weighted deltas, each element times its own weight, which a file gives (PerTA)."""

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base.

        :raises MismatchError: The file has no weights for this tensor.
        """
        del start, base
        parts, weights = self._weighted(deltas)
        if not weights:
            raise MismatchError(
                f"there are no weights for {self._setting.names[0]}, which is edited",
                "Make them from the model that is edited: taskarith importance MODEL --forget ... --retain ...",
            )
        return ordered_sum(parts) * weights[0]


class Project(Combination):
    """The sum of the weighted deltas without its projection on the deltas of what is retained, tensor by tensor.

    All elements of a tensor are one vector; the rest is orthogonal to every retained delta. The source finds the shared
    part otherwise, by subspaces that are invariant across projections.

    :param setting: What is known of the tensor; the deltas of what is retained come after those that are added.
    """

    looks_at_deltas = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, len(setting.weights) + setting.guides)
        self._prints = [xxhash.xxh3_128() for _ in range(setting.guides)]

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        super().scan(deltas, base)
        for state, delta in zip(self._prints, deltas[len(self._setting.weights) :], strict=True):
            state.update(delta.data)

    def _decide(self, products: Products) -> tuple[list[float], float]:
        """Find how much of each retained delta is in the sum, in an order that depends on their content alone."""
        weights, prints = self._setting.weights, self._prints
        first = len(weights)
        order = sorted(range(len(prints)), key=lambda index: prints[index].digest())
        shares = np.zeros(len(order))
        if order:
            retained = [first + index for index in order]
            overlap = [math.fsum(w * products.sum(own, one) for own, w in enumerate(weights)) for one in retained]
            shares[order] = shared_part(products.gram(retained), np.array(overlap))
        return [*weights, *(-share for share in shares.tolist())], 0.0
