"""Kernels that take scalar products, to the same bits on every processor: element i is added to a sum of its lane.

The functions follow the rules of ``arithmetic.kernels.linear``.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.layout import BLOCK, LANES
from taskarith.arithmetic.kernels.rounding import array, kernel, poison, recipe_at, scaled, widened, width

__all__ = ["gram", "products"]

_BASE, _OTHER, _ZERO, _VECTORS = 0, 1, 2, 4
"""Numbers of buffers; those of the vectors come last."""


@kernel
def products(rows, terms, count, sums):
    """Add the products of the elements of any two rows to the sums of their lanes: element i is of lane i % LANES.

    :param rows: Address of the addresses of float64.
    :param terms: How many rows.
    :param count: Number of elements of each.
    :param sums: Address of terms x terms x LANES float64; those of rows a >= b are added to.
    """
    where = array(rows, terms, np.int64)
    for a in range(terms):
        for b in range(a + 1):
            _add_products(where[a], where[b], count, 0, sums + 8 * LANES * (a * terms + b))
    return np.int64(0)


@kernel
def gram(recipe, count, first, rows, adds_base, sums, scratch):
    """Add the products of deltas, or of models, as ``products`` does; they are read and taken block by block.

    A delta is ``plus_i - minus_i``, a model ``base + (plus_i - minus_i)``, each rounded as it is there.

    :param recipe: As for ``recipe_at``; its coefficients do not count.
    :param count: Number of elements.
    :param first: Lane of the first.
    :param rows: Number of vectors; those after the terms are of zeros.
    :param adds_base: 1 to add the base to each vector, which makes it a model; else 0.
    :param sums: As for ``products``.
    :param scratch: As for ``linear.linear``.
    :returns: 1 if all deltas and the base, if it is added, are finite, else 0.
    """
    where, codes, plus, minus, _ = recipe_at(recipe)
    base, other, zero = _buffer(scratch, _BASE), _buffer(scratch, _OTHER), _buffer(scratch, _ZERO)
    zero[:] = 0
    finite = True
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        if adds_base:
            widened(where[0] + start * width(codes[0]), codes[0], n, base)
            finite &= poison(base, n) == 0
        for t in range(rows):
            vector = _buffer(scratch, _VECTORS + t)
            if t >= len(plus) or (adds_base and plus[t] == minus[t] == 0):  # the base itself, which is finite or told
                vector[:] = 0
            else:
                origin = zero
                if adds_base and minus[t] == 0:
                    origin = base
                elif minus[t] >= 0:
                    widened(where[minus[t]] + start * width(codes[minus[t]]), codes[minus[t]], n, other)
                    origin = other
                scaled(where[plus[t]] + start * width(codes[plus[t]]), codes[plus[t]], n, origin, 1.0, vector)
                finite &= poison(vector, n) == 0
            if adds_base:
                for i in range(n):
                    vector[i] += base[i]
        lane = (first + start) % LANES
        for a in range(rows):
            for b in range(a + 1):
                one, two = _address(scratch, _VECTORS + a), _address(scratch, _VECTORS + b)
                _add_products(one, two, n, lane, sums + 8 * LANES * (a * rows + b))
    return np.int64(finite)


@kernel
def _address(scratch, number):
    """Return where one of the buffers is that a block goes through."""
    return scratch + np.int64(number) * 8 * BLOCK


@kernel
def _buffer(scratch, number):
    """Return one of them."""
    return array(_address(scratch, number), BLOCK, np.float64)


@kernel
def _add_products(one, two, count, lane, sums):
    """Add the products of the elements at two addresses to the sums of their lanes, of which the first is given."""
    lanes = array(sums, LANES, np.float64)
    if lane:
        x, y = array(one, count, np.float64), array(two, count, np.float64)
        for i in range(count):
            lanes[(lane + i) % LANES] += x[i] * y[i]
        return
    for start in range(0, count, LANES):
        n = min(LANES, count - start)
        x, y = array(one + 8 * start, n, np.float64), array(two + 8 * start, n, np.float64)
        for i in range(n):
            lanes[i] += x[i] * y[i]
