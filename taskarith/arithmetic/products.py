"""The product of factors of low rank, for a chunk: float64, summed over the rank in one order, whatever the chunk.

Columns go through in tiles that stay in a core's first cache, packed, because rows of a power of two bytes would all
fall into the same lines of it; eight steps of the sum are done between a load and a store of the result.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.rounding import array, kernel

__all__ = ["low_rank"]

_TILE = 128
_DEPTH = 16
"""Columns of a tile, and steps of the sum that it is packed for: 16 kB, four of the kernels' buffers."""


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
    position = start
    while position < stop:
        row, first = position // columns, position % columns
        width, height = min(columns - first, stop - position), np.int64(1)
        if width == columns:  # whole rows, down to the last that belongs to the same factor
            height = min((stop - position) // columns, rows - row % rows)
        here, there = left + 8 * row * rank, right + 8 * (row // rows * rank * columns + first)
        _panel(here, there, rank, columns, height, width, out + 8 * (position - start), scale, scratch)
        position += width * height
    return np.int64(0)


@kernel
def _panel(left, right, rank, columns, height, width, out, scale, scratch):
    """Write ``height`` rows of ``width`` columns of the product, one row after the other."""
    for column in range(0, width, _TILE):
        n = min(_TILE, width - column)
        for depth in range(0, max(rank, 1), _DEPTH):
            steps = min(_DEPTH, rank - depth)
            for k in range(steps):
                values = array(right + 8 * ((depth + k) * columns + column), n, np.float64)
                packed = array(scratch + 8 * _TILE * k, n, np.float64)
                for i in range(n):
                    packed[i] = values[i]
            for row in range(height):
                here = out + 8 * (row * width + column)
                part = array(here, n, np.float64)
                if depth == 0:
                    part[:] = 0
                _add(left + 8 * (row * rank + depth), steps, here, n, scratch)
                if depth + steps == rank:
                    for i in range(n):
                        part[i] *= scale


@kernel
def _add(factors, steps, out, n, scratch):
    """Add some steps of the sum to one row of a tile, eight at a time."""
    a, part = array(factors, steps, np.float64), array(out, n, np.float64)
    k = np.int64(0)
    while k + 8 <= steps:
        tile = array(scratch + 8 * _TILE * k, 8 * _TILE, np.float64)
        a0, a1, a2, a3, a4, a5, a6, a7 = a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7]
        for i in range(n):
            value = part[i] + a0 * tile[i]
            value += a1 * tile[_TILE + i]
            value += a2 * tile[2 * _TILE + i]
            value += a3 * tile[3 * _TILE + i]
            value += a4 * tile[4 * _TILE + i]
            value += a5 * tile[5 * _TILE + i]
            value += a6 * tile[6 * _TILE + i]
            part[i] = value + a7 * tile[7 * _TILE + i]
        k += 8
    while k < steps:
        values = array(scratch + 8 * _TILE * k, n, np.float64)
        for i in range(n):
            part[i] += a[k] * values[i]
        k += 1
