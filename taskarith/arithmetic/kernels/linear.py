"""The arithmetic of one chunk on the CPU: float64 in registers and cache, rounded once; compiled by numba.

Same bits as ``arithmetic.torch``, which does the same with torch. The functions get addresses and numbers, allocate
nothing and raise nothing, so that their object code stands alone (see ``arithmetic.kernels.linear.compile``).
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.inner_products import inner_products
from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.low_rank import low_rank
from taskarith.arithmetic.kernels.rounding import (
    F32,
    array,
    finish,
    kernel,
    poison,
    recipe_at,
    scaled,
    squares,
    widened,
    width,
    with_sign_of_zero,
)
from taskarith.arithmetic.kernels.sorting import sort_columns

__all__ = ["delta", "difference", "inner_products", "linear", "low_rank"]

_ZERO, _SPARE, _PARTS = 2, 3, 4
"""Numbers of some buffers: of zeros, for rounding, and of the terms."""


@kernel
def _address(scratch, number):
    """Return where one of the buffers is that a block goes through."""
    return scratch + np.int64(number) * 8 * BLOCK


@kernel
def _buffer(scratch, number):
    """Return one of them as float64."""
    return array(_address(scratch, number), BLOCK, np.float64)


@kernel
def linear(recipe, count, out, out_code, scratch):
    """Write ``round(base + sum c_i (plus_i - minus_i))`` and return 1 if all of it is finite, else 0.

    The sum is that of float64. Where it is zero the base's bits stay. Two terms commute; three or more are added in the
    order of their values, element by element, so that the order of the operands never changes a bit.

    :param recipe: As for ``recipe_at``.
    :param count: Number of elements.
    :param out: Address of the result.
    :param out_code: Its dtype, as in ``rounding``.
    :param scratch: Address of ``8 * BLOCK`` bytes for each term, or for one if there is none, and for 8 more buffers;
        and of an int64 for each of them.
    """
    where, codes, plus, minus, coefficients = recipe_at(recipe)
    terms = len(plus)
    wide, other, zero = _buffer(scratch, 0), _buffer(scratch, 1), _buffer(scratch, _ZERO)
    zero[:] = 0
    _buffer(scratch, _PARTS)[:] = 0  # which stays so without terms
    finite = True
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        widened(where[0] + start * width(codes[0]), codes[0], n, wide)
        for t in range(terms):
            row, origin = minus[t], wide if minus[t] == 0 else zero
            if row > 0:
                widened(where[row] + start * width(codes[row]), codes[row], n, other)
                origin = other
            row = plus[t]
            here = where[row] + start * width(codes[row])
            scaled(here, codes[row], n, origin, coefficients[t], _buffer(scratch, _PARTS + t))
        there = _rows(scratch, terms)
        if terms > 2:
            finite &= _are_finite(there, terms, n)
            sort_columns(there, terms, n)
        total = array(there[0], n, np.float64)
        for t in range(1, terms):
            part = array(there[t], n, np.float64)
            for i in range(n):
                total[i] += part[i]
        finite &= finish(wide, total, n, out + start * width(out_code), out_code, _address(scratch, _SPARE))
    return np.int64(finite)


@kernel
def _rows(scratch, terms):
    """Return an array of the addresses of the terms' buffers, and of the two that follow."""
    rows = max(terms, 1)
    there = array(_address(scratch, 8 + rows), rows + 2, np.int64)
    for row in range(rows + 2):
        there[row] = _address(scratch, _PARTS + row)
    return there


@kernel
def _are_finite(there, rows, count):
    """Return whether all of some rows is finite."""
    finite = True
    for row in range(rows):
        finite &= poison(array(there[row], count, np.float64), count) == 0
    return finite


@kernel
def delta(plus, plus_code, minus, minus_code, count, out, scratch):
    """Write ``plus - minus`` in float64 and return 1 if all of it is finite, else 0; no zero has a sign.

    :param plus: Address of elements.
    :param plus_code: Their dtype, as in ``rounding``.
    :param minus: Address of what is subtracted, or 0.
    :param minus_code: Its dtype.
    :param count: Number of elements.
    :param out: Address of the result.
    :param scratch: Address of 2 buffers of ``8 * BLOCK`` bytes.
    """
    zero, other = _buffer(scratch, 0), _buffer(scratch, 1)
    zero[:] = 0
    finite = True
    for start in range(0, count, BLOCK):
        n, origin = min(BLOCK, count - start), zero
        to = array(out + 8 * start, n, np.float64)
        if minus:
            widened(minus + start * width(minus_code), minus_code, n, other)
            origin = other
        scaled(plus + start * width(plus_code), plus_code, n, origin, 1.0, to)
        for i in range(n):
            to[i] += 0.0  # -0.0 + 0.0 is 0.0
        finite &= poison(to, n) == 0
    return np.int64(finite)


@kernel
def difference(recipe, count, out, out_code, found, scratch):
    """Write the delta ``round(tuned - base)`` and compare what ``base + delta`` gives back with ``tuned``.

    :param recipe: As for ``recipe_at``; the input of the first term is the fine-tune.
    :param count: Number of elements.
    :param out: Address of the delta.
    :param out_code: Its dtype, as in ``rounding``.
    :param found: Address of four float64, which take: whether all is finite, elements not given back to the bit, deltas
        that are not zero, sum of their squares.
    :param scratch: Address of 6 buffers of ``8 * BLOCK`` bytes.
    """
    where, codes, plus, _, _ = recipe_at(recipe)
    base, base_code, tuned, tuned_code = where[0], codes[0], where[plus[0]], codes[plus[0]]
    wide, delta, zero = _buffer(scratch, 0), _buffer(scratch, 1), _buffer(scratch, _ZERO)
    spare, again = scratch + 24 * BLOCK, scratch + 40 * BLOCK
    light = width(base_code) == 2 and width(tuned_code) == 2 and out_code == F32
    zero[:] = 0
    finite, inexact, moved, total = True, 0, 0, 0.0
    for start in range(0, count, BLOCK):
        n, to = min(BLOCK, count - start), out + start * width(out_code)
        here, there = base + start * width(base_code), tuned + start * width(tuned_code)
        if light:
            is_exact, changed, part = _difference_light(here, base_code, there, tuned_code, n, to, scratch)
            if is_exact:
                moved, total = moved + changed, total + part
                continue
        widened(here, base_code, n, wide)
        scaled(there, tuned_code, n, wide, 1.0, delta)
        finite &= finish(delta, zero, n, to, out_code, spare)
        widened(to, out_code, n, delta)
        total += squares(delta, n)
        for i in range(n):
            moved += delta[i] != 0
        finish(wide, delta, n, again, tuned_code, spare)
        inexact += _unequal(again, there, n, width(tuned_code))
    results = array(found, 4, np.float64)
    results[0], results[1], results[2], results[3] = finite, inexact, moved, total
    return np.int64(0)


@kernel
def _difference_light(base, base_code, tuned, tuned_code, count, out, scratch):
    """Subtract a block in float32, which holds all 16-bit numbers and rounds their difference once.

    If what it gives back is the fine-tune exactly, what float64 gives back is so too.

    :returns: Whether that is so and all is finite (if not, nothing is known), deltas that are not zero, sum of their
        squares.
    """
    before, after = array(scratch, count, np.float32), array(scratch + 8 * BLOCK, count, np.float32)
    delta = array(out, count, np.float32)
    widened(base, base_code, count, before)
    widened(tuned, tuned_code, count, after)
    different, moved = np.uint32(0), np.uint32(0)
    for i in range(count):
        change = after[i] - before[i]
        delta[i] = change
        again, wanted = np.float32(with_sign_of_zero(before[i], change)).view(np.uint32), after[i]
        different = np.uint32(different | np.uint32(again ^ np.float32(wanted).view(np.uint32)))
        moved = np.uint32(moved + np.uint32(change != 0))
    return different == 0 and poison(delta, count) == 0, np.int64(moved), squares(delta, count)


@kernel
def _unequal(first, second, count, size):
    """Count elements of ``size`` bytes whose bits differ."""
    found = 0
    if size == 2:
        a16, b16 = array(first, count, np.uint16), array(second, count, np.uint16)
        for i in range(count):
            found += a16[i] != b16[i]
    elif size == 4:
        a32, b32 = array(first, count, np.uint32), array(second, count, np.uint32)
        for i in range(count):
            found += a32[i] != b32[i]
    else:
        a64, b64 = array(first, count, np.uint64), array(second, count, np.uint64)
        for i in range(count):
            found += a64[i] != b64[i]
    return found
