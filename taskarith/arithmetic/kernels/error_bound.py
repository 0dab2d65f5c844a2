"""Sums in float32 with a bound on their error: a kernel that is right wherever the bound is small enough.

A bfloat16 keeps 8 bits of a sum, and float32 has 24. Where both ends of the interval that the sum in float64 lies in
round to one number, that number is the result; the few other elements are left to float64.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.rounding import BRAIN, array, from_brain, kernel, widened

__all__ = ["bounded"]

_0, _16, _MIDWAY = np.uint32(0), np.uint32(16), np.uint32(0x8000)
_OWN = np.float32(2.25 * 2.0**-24)
"""The error of an addition, and of the ends of the interval after it, in relation to the sum."""

_LARGE = _OWN * np.float32(2.0**100)
"""The error of a sum that is not far from overflow, or has overflowed."""


@kernel
def bounded(base, base_code, total, slack, count, out, marks, scratch):
    """Write ``round(base + total)`` of a block in bfloat16 where float32 can tell it.

    :param base: Address of elements of 32 bits or less.
    :param base_code: Their dtype, as in ``rounding``.
    :param total: Address of float32.
    :param slack: How wrong it may be, and at least 2^-100, which underflow cannot reach.
    :param count: Number of elements.
    :param out: Address of the result.
    :param marks: uint16, at least ``count``: takes the numbers of the elements whose result is not known.
    :param scratch: Address of ``4 * BLOCK`` bytes.
    :returns: How many these are; -1 if nothing is known.
    """
    total, half, slack = array(total, count, np.float32), array(out, count, np.uint16), np.float32(slack)
    if base_code == BRAIN:
        found = _ends(array(base, count, np.uint16), from_brain, total, slack, count, half, marks)
    else:
        wide = array(scratch, count, np.float32)
        widened(base, base_code, count, wide)
        found = _ends(wide, np.float32, total, slack, count, half, marks)
    return _numbers(marks, count) if found > 0 else found


@kernel
def _ends(base, widened, total, slack, count, half, marks):
    """Round both ends of the interval, midpoints away from zero: the number that is looked for lies between them."""
    largest, different = _0, _0
    for i in range(count):
        value = widened(base[i]) + total[i]
        error = _OWN * abs(value) + slack
        largest = max(largest, _bits(error))
        low, high = np.uint32(_bits(value - error) + _MIDWAY), np.uint32(_bits(value + error) + _MIDWAY)
        apart = np.uint32(np.uint32(low ^ high) >> _16)
        half[i], marks[i] = np.uint32(low >> _16), apart
        different = np.uint32(different | apart)
    return -1 if largest >= _bits(_LARGE) else np.int64(different)


@kernel
def _numbers(marks, count):
    """Replace marks by the numbers of the elements that have one, and return how many there are."""
    found = 0
    for first in range(0, count, 64):
        last, any_ = min(first + 64, count), _0
        for i in range(first, last):
            any_ = np.uint32(any_ | marks[i])
        if any_:
            for i in range(first, last):
                if marks[i]:
                    marks[found] = i
                    found += 1
    return found


@kernel
def _bits(value):
    return np.float32(value).view(np.uint32)
