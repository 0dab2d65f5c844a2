"""A calculator on the CPU: buffers of numpy, kernels of ``arithmetic.compiled``; torch is not needed."""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic import compiled
from taskarith.arithmetic.compiled import DTYPE_CODES
from taskarith.arithmetic.recipe import Comparison, LowRank, Recipe
from taskarith.checkpoints.header import ITEM_SIZES

__all__ = ["CpuCalculator"]

_PAD = 4160  # rows of a power of two bytes would all fall into the same lines of the cache


class CpuCalculator:
    """Calculates chunks of at most ``chunk`` elements; see ``Calculator``."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._rows = np.empty((0, 0), np.uint8)
        self._out = np.empty(chunk * 8 + _PAD, np.uint8)

    def begin(self, recipe: Recipe) -> None:
        """Make ready for a tensor; factors get rows of their own, after the inputs."""
        self._factors = [term.plus for term in recipe.terms if isinstance(term.plus, LowRank)]
        inputs = len(recipe.dtypes)
        if len(self._rows) < inputs + len(self._factors):
            self._rows = np.empty((inputs + len(self._factors), self._chunk * 8 + _PAD), np.uint8)
        dtypes = [*recipe.dtypes, *["F64"] * len(self._factors)]
        numbers = iter(range(inputs, len(dtypes)))
        self._inputs = inputs
        self._sizes = [ITEM_SIZES[dtype] for dtype in dtypes]
        self._codes = np.array([DTYPE_CODES[dtype] for dtype in dtypes])
        self._plus = np.array(
            [term.plus if isinstance(term.plus, int) else next(numbers) for term in recipe.terms], int
        )
        self._minus = np.array([-1 if term.minus is None else term.minus for term in recipe.terms], int)
        self._coefficients = np.array([term.coefficient for term in recipe.terms], np.float64)
        self._output = DTYPE_CODES[recipe.output]
        self._output_size = ITEM_SIZES[recipe.output]

    def room(self, index: int, elements: int) -> memoryview:
        """Return where the bytes of a chunk of an input belong."""
        return self._rows[index].data[: elements * self._sizes[index]]

    def linear(self, start: int, stop: int) -> tuple[memoryview, bool]:
        """Calculate ``round(base + sum of terms)``."""
        self._multiply(start, stop)
        finite = compiled.linear(
            self._rows,
            self._codes,
            self._plus,
            self._minus,
            self._coefficients,
            stop - start,
            self._out,
            self._output,
        )
        return self._result(stop - start), bool(finite)

    def difference(self, start: int, stop: int) -> tuple[memoryview, bool, Comparison]:
        """Calculate ``round(plus - base)`` of the first term and compare."""
        self._multiply(start, stop)
        tuned = int(self._plus[0])
        finite, inexact, moved, squares = compiled.difference(
            self._rows[0],
            self._codes[0],
            self._rows[tuned],
            self._codes[tuned],
            stop - start,
            self._out,
            self._output,
        )
        return self._result(stop - start), bool(finite), Comparison(int(inexact), int(moved), float(squares))

    def _multiply(self, start: int, stop: int) -> None:
        for row, factors in enumerate(self._factors, self._inputs):
            wide = self._rows[row].view(np.float64)
            compiled.low_rank(factors.left, factors.right, factors.scale, start, stop, wide)

    def _result(self, elements: int) -> memoryview:
        return self._out.data[: elements * self._output_size]
