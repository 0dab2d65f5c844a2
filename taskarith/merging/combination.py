"""Operators whose result is linear in the deltas and the base, with factors that scalar products decide."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence

import numpy as np

from taskarith.arithmetic.kernels.available import address, load_or_none
from taskarith.arithmetic.kernels.layout import LANES
from taskarith.merging.operator import Setting

__all__ = ["Combination", "Products"]


class Products:
    """Scalar products of any two rows, to the same bits on every processor.

    Pieces are cut at fixed places. In each, element i is added to partial sum i % 64; these are added up without error.

    :param count: How many rows.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._sums = dict.fromkeys(itertools.combinations_with_replacement(range(count), 2), 0.0)

    def add(self, rows: Sequence[np.ndarray]) -> None:
        """Add the next piece of each row: float64, one after the other.

        :raises FloatingPointError: A product, or a sum of them, is too large.
        """
        self.add_lanes(self._lanes(rows))

    def add_lanes(self, lanes: np.ndarray) -> None:
        """Add what a piece gives.

        :param lanes: The partial sums: float64, rows x rows x LANES, of which those of rows a >= b are read.
        :raises FloatingPointError: One is not finite: something was too large.
        """
        if not np.isfinite(lanes).all():
            raise FloatingPointError("overflow encountered in a scalar product")
        for first, second in self._sums:
            self._sums[first, second] += math.fsum(lanes[second, first])

    def new_lanes(self) -> np.ndarray:
        """Return partial sums of zero."""
        return np.zeros((self._count, self._count, LANES))

    def _lanes(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        lanes, kernels = self.new_lanes(), load_or_none("merge")
        if kernels is not None:
            where = array("q", [address(row) for row in rows])
            kernels.products(where.buffer_info()[0], len(rows), len(rows[0]), lanes.ctypes.data)
            return lanes
        whole = len(rows[0]) // LANES * LANES
        with np.errstate(over="ignore", invalid="ignore"):
            for first, second in self._sums:
                product, sums = rows[first] * rows[second], lanes[second, first]
                sums += product[:whole].reshape(-1, LANES).sum(0)
                sums[: len(product) - whole] += product[whole:]
        return lanes

    def sum(self, first: int, second: int) -> float:
        """Return the scalar product of two rows."""
        return self._sums[min(first, second), max(first, second)]

    def cosine(self, first: int, second: int) -> float:
        """Return the cosine of the angle between two rows, the first before the second; 0 where one is zero."""
        norms = math.sqrt(self._sums[first, first]) * math.sqrt(self._sums[second, second])
        return max(-1.0, min(1.0, self._sums[first, second] / norms)) if norms else 0.0

    def gram(self, chosen: Sequence[int]) -> np.ndarray:
        """Return the scalar products of some rows with each other: float64, n x n."""
        return np.array([[self.sum(one, two) for two in chosen] for one in chosen])


class Combination(ABC):
    """Base of such operators: one reading of all elements finds the factors, the next one adds up.

    :param setting: What is known of the tensor.
    :param rows: How many vectors the scalar products are of.
    """

    span = 1
    wants_base = False
    looks_at_deltas = False
    """Whether it needs the deltas themselves, not only the scalar products, which kernels take while they read."""

    def __init__(self, setting: Setting, rows: int) -> None:
        self._setting, self.products = setting, Products(rows)
        self._factors: tuple[list[float], float] | None = None

    def is_ready(self) -> bool:
        """Return whether the factors are known."""
        return self._factors is not None

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece: flat float64, finite."""
        self.products.add(self._vectors(deltas, base))

    def end_scan(self) -> None:
        """Find the factors."""
        self._factors = self._decide(self.products)

    def factors(self) -> tuple[list[float], float]:
        """Return what each delta is multiplied by, and what of the base is added to it, once they are known."""
        if self._factors is None:
            raise AssertionError("nothing was read yet")
        return self._factors

    def _vectors(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> Sequence[np.ndarray]:
        """Return pieces of the vectors that scalar products are taken of."""
        del base
        return deltas

    @abstractmethod
    def _decide(self, products: Products) -> tuple[list[float], float]:
        """Return the factors."""
