"""A kernel that sorts the columns of a block of rows, so that they can be added up in the order of their values."""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.rounding import array, kernel

__all__ = ["sort_columns"]


@kernel
def sort_columns(there, rows, count):
    """Sort each column upwards, by exchanges of neighbouring rows; no value may be NaN.

    What is exchanged goes into two spare rows, whose places are then taken by the two that it came from: a loop that
    writes where it reads is not vectorised.

    :param there: Array of addresses: of each row, and of the two spare ones. Afterwards the rows are where it says.
    :param rows: How many there are, without the spare ones.
    :param count: Number of elements of each, float64.
    """
    for end in range(rows - 1, 0, -1):
        for row in range(end):
            first, second, lower, upper = there[row], there[row + 1], there[rows], there[rows + 1]
            _exchange(first, second, lower, upper, count)
            there[row], there[row + 1], there[rows], there[rows + 1] = lower, upper, first, second


@kernel
def _exchange(first, second, lower, upper, count):
    """Write the lesser and the greater of two values for each column."""
    one, other = array(first, count, np.float64), array(second, count, np.float64)
    low, high = array(lower, count, np.float64), array(upper, count, np.float64)
    for i in range(count):
        low[i] = min(one[i], other[i])
        high[i] = max(one[i], other[i])
