"""Inner products of several deltas, for a chunk: each element is read once, whatever the number of pairs.

Elements go through buffers of ``BLOCK``, which stay in a core's first cache: of float32 where that holds them exactly,
else of float64. Products and sums are taken in float64; those of two float32 are exact.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import F64, array, kernel, recipe_at, scaled, widened, width

__all__ = ["inner_products"]


@kernel
def inner_products(recipe, count, sums, few, room, at, step, scratch):
    """Add the inner products of all pairs of terms ``c_i (plus_i - minus_i)`` to those of the chunks before.

    A block's are summed by several accumulators in one order, the blocks' one after the other: if all chunks but the
    last are whole blocks, no bit depends on how a tensor is cut.

    :param recipe: As for ``recipe_at``.
    :param count: Number of elements.
    :param sums: Address of float64, terms x terms; what is on the diagonal and below it is added to.
    :param few: Address of float32; takes every ``step``-th element of the first term; the other terms' follow.
    :param room: How many elements lie between those of one term and of the next.
    :param at: The first of them, counted from the chunk's first element.
    :param step: At least 1.
    :param scratch: As for ``linear``.
    """
    where, codes, plus, minus, coefficients = recipe_at(recipe)
    terms = len(plus)
    sums = array(sums, terms * terms, np.float64)
    other, zero = _buffer(scratch, 0, np.float64), _buffer(scratch, 1, np.float64)
    parts = scratch + 16 * BLOCK
    taken, place = array(few, terms * room, np.float32), 0
    zero[:] = 0
    light = True
    for t in range(terms):
        light &= minus[t] < 0 and coefficients[t] == 1 and codes[plus[t]] != F64
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        for t in range(terms):
            row, origin = minus[t], zero
            if light:
                few = _buffer(parts, t, np.float32)
                widened(where[plus[t]] + start * width(codes[plus[t]]), codes[plus[t]], n, few)
                few[n:] = 0
                continue
            if row >= 0:
                widened(where[row] + start * width(codes[row]), codes[row], n, other)
                origin = other
            row, here = plus[t], _buffer(parts, t, np.float64)
            scaled(where[row] + start * width(codes[row]), codes[row], n, origin, coefficients[t], here)
            here[n:] = 0
        if light:
            _add(parts, terms, sums, np.float32)
        else:
            _add(parts, terms, sums, np.float64)
        while at < start + n:
            for t in range(terms):
                part = parts + 8 * BLOCK * t
                value = (
                    array(part, BLOCK, np.float32)[at - start] if light else array(part, BLOCK, np.float64)[at - start]
                )
                taken[t * room + place] = value
            at, place = at + step, place + 1
    return np.int64(0)


@kernel
def _buffer(scratch, number, dtype):
    """Return one of the buffers that a block goes through."""
    return array(scratch + np.int64(number) * 8 * BLOCK, BLOCK, dtype)


@kernel
def _add(parts, terms, sums, dtype):
    """Add the inner products of a block: of couples first, whose elements are then loaded once for three sums."""
    for t in range(0, terms, 2):
        after = min(t + 1, terms - 1)
        xx, xy, yy = _couple(_buffer(parts, t, dtype), _buffer(parts, after, dtype))
        sums[t * terms + t] += xx
        if after > t:
            sums[after * terms + t] += xy
            sums[after * terms + after] += yy
    for t in range(2, terms):
        for earlier in range(t - t % 2):
            sums[t * terms + earlier] += _dot(_buffer(parts, t, dtype), _buffer(parts, earlier, dtype))


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _couple(x, y):
    """Return the inner products of two buffers with themselves and each other."""
    xx, xy, yy = 0.0, 0.0, 0.0
    for i in range(BLOCK):
        a, b = np.float64(x[i]), np.float64(y[i])
        xx += a * a
        xy += a * b
        yy += b * b
    return xx, xy, yy


@njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _dot(x, y):
    """Return the inner product of two buffers."""
    total = 0.0
    for i in range(BLOCK):
        total += np.float64(x[i]) * np.float64(y[i])
    return total
