"""The product of factors of low rank, for a chunk, summed over the rank in one order, whatever the chunk.

Columns go through in tiles that stay in a core's first cache, packed, because rows of a power of two bytes would all
fall into the same lines of it; eight steps of the sum are done between a load and a store of the result.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taskarith.arithmetic.kernels.rounding import array, kernel

__all__ = ["element", "low_rank", "low_rank_light"]

_TILE = 1024
_DEPTH = 16
"""Bytes of a row of a tile, and steps of the sum that it is packed for: 16 kB, four of the kernels' buffers."""

_light = njit(nogil=True, error_model="numpy", fastmath={"contract"})


@kernel
def low_rank(left, right, rank, columns, rows, scale, start, stop, out, scratch):
    """Write elements ``start`` to ``stop`` (row-major) of ``scale * left @ right``.

    :param left: Address of float64, rows x rank.
    :param right: Address of float64, rank x columns.
    :param rank: Their common size.
    :param columns: Length of a row of the product.
    :param rows: Rows of ``left`` that belong to the same ``right``; the next ones belong to one ``rank`` rows below.
    :param scale: A factor.
    :param start: First element.
    :param stop: Element after the last.
    :param out: Address of float64, at least ``stop - start``.
    :param scratch: Address of ``32 * BLOCK`` bytes.
    """
    sizes, factors = (rank, columns, rows, 8), (1.0, scale)
    _low_rank(left, right, sizes, factors, start, stop, out, True, np.float64, _add, scratch)
    return np.int64(0)


@kernel
def low_rank_light(left, right, rank, columns, rows, scale, start, stop, out, is_first, scratch):
    """Do the same in float32, with the error that ``arithmetic.kernels.error_bound_limits`` tells.

    :param out: Address of float32, which the product is added to, or, if ``is_first``, written to.
    """
    sizes, factors = (rank, columns, rows, 4), (scale, 1.0)
    _low_rank(left, right, sizes, factors, start, stop, out, is_first != 0, np.float32, _add_light, scratch)
    return np.int64(0)


@kernel
def element(left, right, rank, columns, rows, scale, position):
    """Return one element of the product, the same as ``low_rank`` writes."""
    row, column = position // columns, position % columns
    a = array(left + 8 * row * rank, rank, np.float64)
    b = array(right + 8 * (row // rows * rank * columns), rank * columns, np.float64)
    total = 0.0
    for k in range(rank):
        total += a[k] * b[k * columns + column]
    return scale * total


@kernel
def _low_rank(left, right, sizes, factors, start, stop, out, is_first, dtype, add, scratch):
    """Calculate elements of ``after * ((before * left) @ right)``, with ``factors = before, after``."""
    rank, columns, rows, size = sizes
    position = start
    while position < stop:
        row, first = position // columns, position % columns
        width, height = min(columns - first, stop - position), np.int64(1)
        if width == columns:  # whole rows, down to the last that belongs to the same factor
            height = min((stop - position) // columns, rows - row % rows)
        here, there = left + 8 * row * rank, right + 8 * (row // rows * rank * columns + first)
        to, shape = out + size * (position - start), (rank, columns, height, width, size)
        _panel(here, there, shape, factors, to, is_first, dtype, add, scratch)
        position += width * height


@kernel
def _panel(left, right, shape, factors, out, is_first, dtype, add, scratch):
    """Calculate ``height`` rows of ``width`` columns of the product, one row after the other."""
    rank, columns, height, width, size = shape
    before, after = factors
    most = _TILE // size
    for column in range(0, width, most):
        n = min(most, width - column)
        for depth in range(0, max(rank, 1), _DEPTH):
            steps = min(_DEPTH, rank - depth)
            for k in range(steps):
                values = array(right + 8 * ((depth + k) * columns + column), n, np.float64)
                packed = array(scratch + _TILE * k, n, dtype)
                for i in range(n):
                    packed[i] = values[i]
            for row in range(height):
                part = array(out + size * (row * width + column), n, dtype)
                if is_first and depth == 0:
                    part[:] = 0
                add(left + 8 * (row * rank + depth), before, steps, part, n, scratch)
                if depth + steps == rank and after != 1:
                    for i in range(n):
                        part[i] *= after


@kernel
def _add(factors, _scale, steps, part, n, scratch):
    """Add some steps of the sum to one row of a tile, eight at a time; the scale is 1."""
    a, row = array(factors, steps, np.float64), _TILE // 8
    tile = array(scratch, _DEPTH * row, np.float64)
    k = np.int64(0)
    while k + 8 <= steps:
        if n == row:  # a number that the compiler knows leaves it more registers
            _add_eight(a[k : k + 8], tile[row * k :], part, row)
        else:
            _add_eight(a[k : k + 8], tile[row * k :], part, n)
        k += 8
    while k < steps:
        b = tile[row * k :]
        for i in range(n):
            part[i] += a[k] * b[i]
        k += 1


@kernel
def _add_eight(a, b, part, n):
    row = _TILE // 8
    a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
    for i in range(n):
        value = part[i] + a0 * b[i]
        value += a1 * b[row + i]
        value += a2 * b[2 * row + i]
        value += a3 * b[3 * row + i]
        value += a4 * b[4 * row + i]
        value += a5 * b[5 * row + i]
        value += a6 * b[6 * row + i]
        part[i] = value + a7 * b[7 * row + i]


@_light
def _add_light(factors, scale, steps, part, n, scratch):
    """Add some steps of the sum in float32, eight at a time as a tree of three levels: it rounds less."""
    a, row = array(factors, steps, np.float64), _TILE // 4
    tile = array(scratch, _DEPTH * row, np.float32)
    k = np.int64(0)
    while k + 8 <= steps:
        if n == row:
            _add_eight_light(a[k : k + 8], scale, tile[row * k :], part, row)
        else:
            _add_eight_light(a[k : k + 8], scale, tile[row * k :], part, n)
        k += 8
    while k < steps:
        b, factor = tile[row * k :], np.float32(scale * a[k])
        for i in range(n):
            part[i] += factor * b[i]
        k += 1


@_light
def _add_eight_light(a, scale, b, part, n):
    row = _TILE // 4
    a0, a1, a2 = np.float32(scale * a[0]), np.float32(scale * a[1]), np.float32(scale * a[2])
    a3, a4, a5 = np.float32(scale * a[3]), np.float32(scale * a[4]), np.float32(scale * a[5])
    a6, a7 = np.float32(scale * a[6]), np.float32(scale * a[7])
    for i in range(n):
        one = (a0 * b[i] + a1 * b[row + i]) + (a2 * b[2 * row + i] + a3 * b[3 * row + i])
        two = (a4 * b[4 * row + i] + a5 * b[5 * row + i]) + (a6 * b[6 * row + i] + a7 * b[7 * row + i])
        part[i] += one + two
