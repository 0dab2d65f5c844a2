"""A calculator on the CPU: one piece of memory a worker, and the kernels of ``kernels.compile``; no torch."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskarith.arithmetic.calculator import Comparison, LowRank, Products, Recipe, Term
from taskarith.arithmetic.kernels.compile import load_kernels
from taskarith.arithmetic.kernels.layout import BLOCK, DTYPE_CODES
from taskarith.checkpoints.header import ITEM_SIZES

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CpuCalculator"]

_PAD = 4160  # rows of a power of two bytes would all fall into the same lines of the cache


class CpuCalculator:
    """Calculates chunks of at most ``chunk`` elements; see ``Calculator``.

    :param chunk: The most elements of a chunk.
    :param groups: The kernels that are needed; others are loaded, or compiled, when they are called.
    """

    device, is_compiled = "cpu", True

    def __init__(self, chunk: int, groups: Sequence[str] = ()) -> None:
        self._kernels = load_kernels(*groups)
        self._stride = chunk * 8 + _PAD
        self._reserve(2, 2)

    def begin(self, recipe: Recipe) -> None:
        """Make ready for a tensor; factors get rows of their own, after the inputs."""
        self._factors = [term.plus for term in recipe.terms if isinstance(term.plus, LowRank)]
        for side in (side for factors in self._factors for side in (factors.left, factors.right)):
            if side.dtype != "float64" or not side.flags.c_contiguous:  # the kernels know nothing but its address
                raise AssertionError("factors must be float64, one row after the other")
        dtypes = [*recipe.dtypes, *["F64"] * len(self._factors)]
        if len(dtypes) > self._rows or len(recipe.terms) > self._room_for:
            self._reserve(len(dtypes), len(recipe.terms))
        numbers = iter(range(len(recipe.dtypes), len(dtypes)))
        self._inputs = len(recipe.dtypes)
        self._sizes = [ITEM_SIZES[dtype] for dtype in dtypes]
        self._addresses = array("q", [self._start + row * self._stride for row in range(len(dtypes))])
        self._codes = array("q", [DTYPE_CODES[dtype] for dtype in dtypes])
        self._terms = (
            array("q", [one.plus if isinstance(one.plus, int) else next(numbers) for one in recipe.terms]),
            array("q", [-1 if term.minus is None else term.minus for term in recipe.terms]),
            array("d", [term.coefficient for term in recipe.terms]),
        )
        parts = (self._addresses, self._codes, *self._terms)
        self._recipe = array("q", [len(dtypes), len(recipe.terms), *map(_address, parts)])
        self._output = DTYPE_CODES[recipe.output]
        self._output_size = ITEM_SIZES[recipe.output]

    def room(self, index: int, elements: int) -> memoryview:
        """Return where the bytes of a chunk of an input belong."""
        return self._row(index, elements * self._sizes[index])

    def linear(self, start: int, stop: int) -> tuple[memoryview, bool]:
        """Calculate ``round(base + sum of terms)``."""
        self._multiply(start, stop)
        recipe = _address(self._recipe)
        finite = self._kernels.linear(recipe, stop - start, self._out, self._output, self._scratch)
        return self._result(stop - start), bool(finite)

    def delta(self, term: Term, start: int, stop: int, out: np.ndarray) -> bool:
        """Calculate ``plus - minus`` in float64; a zero that is read has no sign."""
        to = out.ctypes.data
        if isinstance(term.plus, LowRank):
            self._product(term.plus, start, stop, to)
            return True
        plus, minus = term.plus, 0 if term.minus is None else term.minus
        origin = 0 if term.minus is None else self._addresses[minus]
        return bool(
            self._kernels.delta(
                self._addresses[plus], self._codes[plus], origin, self._codes[minus], stop - start, to, self._scratch
            )
        )

    def gram(self, start: int, stop: int, first: int, lanes: np.ndarray, *, adds_base: bool) -> bool:
        """Add scalar products of the deltas, or of the base and each of them, to the sums of their lanes.

        :param start, stop: The chunk.
        :param first: Number of its first element, which decides its lane.
        :param lanes: float64, vectors x vectors x LANES; those of vectors a >= b are added to.
        :param adds_base: Whether they are of models, not of deltas. Vectors after the terms are deltas of zeros.
        :returns: Whether all of it is finite.
        """
        self._multiply(start, stop)
        where = lanes.ctypes.data
        return bool(
            self._kernels.gram(
                _address(self._recipe), stop - start, first, len(lanes), int(adds_base), where, self._scratch
            )
        )

    def inner_products(self, start: int, stop: int, found: Products) -> None:
        """Add the inner products of all pairs of terms, and keep the few elements."""
        self._multiply(start, stop)
        place = found.next_from(start)
        self._kernels.inner_products(
            _address(self._recipe),
            stop - start,
            found.sums.ctypes.data,
            found.few.ctypes.data + place * found.few.itemsize,
            found.few.shape[1],
            found.first + place * found.step - start,
            found.step,
            self._scratch,
        )

    def difference(self, start: int, stop: int) -> tuple[memoryview, bool, Comparison]:
        """Calculate ``round(plus - base)`` of the first term and compare."""
        self._multiply(start, stop)
        recipe, found = _address(self._recipe), array("d", [0.0] * 4)
        self._kernels.difference(recipe, stop - start, self._out, self._output, _address(found), self._scratch)
        finite, inexact, moved, squares = found
        return self._result(stop - start), bool(finite), Comparison(int(inexact), int(moved), squares)

    def _reserve(self, rows: int, terms: int) -> None:
        """Take memory for rows of inputs, one row for the result, and the kernels' buffers."""
        self._rows, self._room_for = rows, terms
        scratch = (8 + max(terms, 1)) * 8 * (BLOCK + 1)
        self._memory = mmap.mmap(-1, (rows + 1) * self._stride + scratch)
        self._view = memoryview(self._memory)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._out = self._start + rows * self._stride
        self._scratch = self._out + self._stride

    def _multiply(self, start: int, stop: int) -> None:
        for row, factors in enumerate(self._factors, self._inputs):
            self._product(factors, start, stop, self._addresses[row])

    def _product(self, factors: LowRank, start: int, stop: int, out: int) -> None:
        (rows, rank), columns = factors.left.shape, factors.right.shape[1]
        sides = factors.left.ctypes.data, factors.right.ctypes.data
        parts = array("q", [*sides, rank, columns, rows // factors.blocks])
        self._kernels.low_rank(_address(parts), factors.scale, start, stop, out, self._scratch)

    def _row(self, index: int, size: int) -> memoryview:
        return self._view[index * self._stride : index * self._stride + size]

    def _result(self, elements: int) -> memoryview:
        return self._row(self._rows, elements * self._output_size)


def _address(values: array) -> int:
    return values.buffer_info()[0]
