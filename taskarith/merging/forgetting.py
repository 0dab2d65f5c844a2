"""Operators for forgetting: what several forget vectors agree on, what is not shared with others, what matters least.

Sources: NegMerge, arXiv:2410.05583; removal of what task vectors share, the idea of arXiv:2512.22511; PerTA,
arXiv:2601.22030.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from taskarith.errors import MismatchError
from taskarith.merging.operator import Setting, SinglePass
from taskarith.merging.slerp_stock import Products
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


class Project(SinglePass):
    """The sum of the weighted deltas without its projection on the deltas of what is retained, tensor by tensor.

    All elements of a tensor are one vector; the rest is orthogonal to every retained delta. The source finds the shared
    part otherwise, by subspaces that are invariant across projections.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._products: Products | None = None
        self._prints: list[xxhash.xxh3_128] = []
        self._shares: np.ndarray | None = None

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return self._shares is not None

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece."""
        del base
        parts, retained = self._weighted(deltas)
        if self._products is None:
            self._products = Products(1 + len(retained))
            self._prints = [xxhash.xxh3_128() for _ in retained]
        self._products.add([ordered_sum(parts), *retained])
        for state, delta in zip(self._prints, retained, strict=True):
            state.update(delta.data)

    def end_scan(self) -> None:
        """Find how much of each retained delta is in the sum, in an order that depends on their content alone."""
        products = self._products
        order = sorted(range(len(self._prints)), key=lambda index: self._prints[index].digest())
        self._shares = np.zeros(len(order))
        if products is not None and order:
            gram = np.array([[products.sum(1 + one, 1 + two) for two in order] for one in order])
            overlap = np.array([products.sum(0, 1 + one) for one in order])
            self._shares[order] = shared_part(gram, overlap)

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start, base
        parts, retained = self._weighted(deltas)
        shares = () if self._shares is None else self._shares.tolist()
        return ordered_sum(
            [ordered_sum(parts), *(-share * delta for share, delta in zip(shares, retained, strict=True))]
        )
