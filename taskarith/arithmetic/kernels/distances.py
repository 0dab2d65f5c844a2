"""A kernel that compares two tensors, as `diff` does: how many elements differ, and how far.

The functions follow the rules of ``arithmetic.kernels.linear``.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import array, kernel, poison, squares, widened, width

__all__ = ["distances"]

_MAGNITUDE = np.uint64(0x7FFF_FFFF_FFFF_FFFF)
"""All bits of a float64 but its sign."""


@kernel
def distances(first, first_code, second, second_code, count, found, scratch):
    """Compare elements as float64.

    :param first: Address of elements.
    :param first_code: Their dtype, as in ``rounding``.
    :param second: Address of as many others.
    :param second_code: Their dtype.
    :param count: Number of elements.
    :param found: Address of five float64, which take: elements whose bits differ, the largest magnitude of a
        difference and of the first, the sum of squares of the differences and of the first.
    :param scratch: Address of 2 buffers of ``8 * BLOCK`` bytes.
    :returns: 1 if all values and differences are finite, else 0; then what was found is to be ignored.
    """
    a, b = array(scratch, BLOCK, np.float64), array(scratch + 8 * BLOCK, BLOCK, np.float64)
    finite, differing, far, large, distance, size = True, 0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        widened(first + start * width(first_code), first_code, n, a)
        widened(second + start * width(second_code), second_code, n, b)
        finite &= poison(a, n) == 0
        finite &= poison(b, n) == 0
        size += squares(a, n)
        large = max(large, _largest(a, n))
        differing += _unequal(a, b, n)
        for i in range(n):
            b[i] = a[i] - b[i]
        finite &= poison(b, n) == 0
        distance += squares(b, n)
        far = max(far, _largest(b, n))
    results = array(found, 5, np.float64)
    results[0], results[1], results[2], results[3], results[4] = differing, far, large, distance, size
    return np.int64(finite)


@kernel
def _unequal(first, second, count):
    """Count float64 whose bits differ."""
    found = np.int64(0)
    for i in range(count):
        found += np.float64(first[i]).view(np.uint64) != np.float64(second[i]).view(np.uint64)
    return found


@kernel
def _largest(values, count):
    """Return the largest magnitude of float64: without their sign, bits are ordered as values, and sooner compared."""
    largest = np.uint64(0)
    for i in range(count):
        largest = max(largest, np.uint64(np.float64(values[i]).view(np.uint64) & _MAGNITUDE))
    return np.uint64(largest).view(np.float64)
