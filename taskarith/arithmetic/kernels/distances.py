"""Kernels for `diff` and `inspect`: how large the elements of a tensor are, and how far from those of another.

The functions follow the rules of ``arithmetic.kernels.linear``. Without their sign, the bits of a float64 are ordered
as its value, and are sooner compared; those of what is not finite come last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import array, kernel, widened, width

__all__ = ["distances", "sizes"]

_MAGNITUDE = np.int64(0x7FFF_FFFF_FFFF_FFFF)
"""All bits of a float64 but its sign."""

_INFINITY = np.int64(0x7FF0_0000_0000_0000)


@kernel
def distances(first, first_code, second, second_code, count, found, scratch):
    """Compare elements as float64.

    :param first: Address of elements.
    :param first_code: Their dtype, as in ``rounding``.
    :param second: Address of as many others.
    :param second_code: Their dtype.
    :param count: Number of elements.
    :param found: Address of five float64, which take: how many differ in their bits; of the differences, and of the
        first, the largest magnitude and the sum of squares.
    :param scratch: Address of 2 buffers of ``8 * BLOCK`` bytes.
    :returns: 1 if all values and differences are finite, else 0; then what was found is to be ignored.
    """
    a, b = array(scratch, BLOCK, np.float64), array(scratch + 8 * BLOCK, BLOCK, np.float64)
    differing, far, large, distance, size = np.int64(0), np.int64(0), np.int64(0), 0.0, 0.0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        widened(first + start * width(first_code), first_code, n, a)
        widened(second + start * width(second_code), second_code, n, b)
        unequal, longest, largest, way, length = _compared(a, b, n)
        differing, far, large = differing + unequal, max(far, longest), max(large, largest)
        distance, size = distance + way, size + length
    results = array(found, 5, np.float64)
    results[0], results[2], results[4] = differing, distance, size
    results[1], results[3] = np.int64(far).view(np.float64), np.int64(large).view(np.float64)
    return np.int64(max(far, large) < _INFINITY)


@kernel
def sizes(values, code, count, found, scratch):
    """Measure elements as float64.

    :param values: Address of elements.
    :param code: Their dtype, as in ``rounding``.
    :param count: Number of elements.
    :param found: Address of three float64, which take: how many are zero, the largest magnitude, the sum of squares.
    :param scratch: Address of a buffer of ``8 * BLOCK`` bytes.
    :returns: 1 if all are finite, else 0; then what was found is to be ignored.
    """
    wide, zeros, large, size = array(scratch, BLOCK, np.float64), np.int64(0), np.int64(0), 0.0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        widened(values + start * width(code), code, n, wide)
        none, largest, length = _measured(wide, n)
        zeros, large, size = zeros + none, max(large, largest), size + length
    results = array(found, 3, np.float64)
    results[0], results[1], results[2] = zeros, np.int64(large).view(np.float64), size
    return np.int64(large < _INFINITY)


@njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def _compared(first, second, count):
    """Return what ``distances`` finds in a block; magnitudes as bits."""
    differing, far, large, distance, size = np.int64(0), np.int64(0), np.int64(0), 0.0, 0.0
    for i in range(count):
        value, other = np.float64(first[i]), np.float64(second[i])
        gap = np.float64(value - other)
        differing += value.view(np.int64) != other.view(np.int64)
        far = max(far, np.int64(gap.view(np.int64) & _MAGNITUDE))
        large = max(large, np.int64(value.view(np.int64) & _MAGNITUDE))
        distance += gap * gap
        size += value * value
    return differing, far, large, distance, size


@njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def _measured(values, count):
    """Return what ``sizes`` finds in a block; the magnitude as bits."""
    zeros, large, size = np.int64(0), np.int64(0), 0.0
    for i in range(count):
        value = np.float64(values[i])
        magnitude = np.int64(value.view(np.int64) & _MAGNITUDE)
        zeros += magnitude == 0
        large = max(large, magnitude)
        size += value * value
    return zeros, large, size
