"""The product of factors of low rank, for a chunk, summed over the rank in one order, whatever the chunk.

Columns go through in tiles that stay in a core's first cache, packed, because rows of a power of two bytes would all
fall into the same lines of it; eight steps of the sum are done between a load and a store of the result.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.rounding import array, kernel

__all__ = ["low_rank"]

_TILE = 1024
_DEPTH = 16
"""Bytes of a row of a tile, and steps of the sum that it is packed for: 16 kB, four of the kernels' buffers."""


@kernel
def low_rank(factors, scale, start, stop, out, scratch):
    """Write elements ``start`` to ``stop`` (row-major) of ``scale * left @ right``.

    :param factors: Address of five int64: the address of ``left``, float64, rows x rank; that of ``right``, float64,
        rank x columns; their common size, the rank; the columns; and how many rows of ``left`` belong to the same
        ``right``: the next ones belong to one ``rank`` rows below.
    :param scale: A factor.
    :param start: First element.
    :param stop: Element after the last.
    :param out: Address of float64, at least ``stop - start``.
    :param scratch: Address of ``32 * BLOCK`` bytes.
    """
    factors, position = array(factors, 5, np.int64), start
    columns, rows = factors[3], factors[4]
    while position < stop:
        row, first = position // columns, position % columns
        width, height = min(columns - first, stop - position), np.int64(1)
        if width == columns:  # whole rows, down to the last that belongs to the same factor
            height = min((stop - position) // columns, rows - row % rows)
        _panel(factors, position, height, width, scale, out + 8 * (position - start), scratch)
        position += width * height
    return np.int64(0)


@kernel
def _panel(factors, position, height, width, scale, out, scratch):
    """Calculate ``height`` rows of ``width`` columns of the product from a position, one row after the other."""
    rank, columns, most = factors[2], factors[3], _TILE // 8
    row, first = position // columns, position % columns
    left, right = factors[0] + 8 * row * rank, factors[1] + 8 * (row // factors[4] * rank * columns + first)
    for column in range(0, width, most):
        n = min(most, width - column)
        for depth in range(0, max(rank, 1), _DEPTH):
            steps = min(_DEPTH, rank - depth)
            for k in range(steps):
                values = array(right + 8 * ((depth + k) * columns + column), n, np.float64)
                packed = array(scratch + _TILE * k, n, np.float64)
                for i in range(n):
                    packed[i] = values[i]
            for row in range(height):
                part = array(out + 8 * (row * width + column), n, np.float64)
                if depth == 0:
                    part[:] = 0
                _add(left + 8 * (row * rank + depth), steps, part, n, scratch)
                if depth + steps == rank and scale != 1:
                    for i in range(n):
                        part[i] *= scale


@kernel
def _add(factors, steps, part, n, scratch):
    """Add some steps of the sum to one row of a tile, eight at a time."""
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
