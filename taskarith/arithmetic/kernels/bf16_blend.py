"""A share of the way from a bfloat16 base to its bfloat16 fine-tune: a kernel that gets by with float32.

Both are numbers of few bits, so that a coefficient meets few different changes. ``bf16_blend_limits`` tries all and
says how large they may be for float32 to round to what float64 does; the few larger ones are left to float64.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import BRAIN, array, finish, kernel, scaled, widened

__all__ = ["partway"]

_0, _1, _16, _MIDWAY = np.uint32(0), np.uint32(1), np.uint32(16), np.uint32(0x7FFF)
_HIGH, _LOW, _MAGNITUDE = np.uint32(0xFFFF0000), np.uint32(0x0000FFFF), np.uint32(0x7FFFFFFF)
_LARGE, _ALL = np.float32(2.0**100).view(np.uint32), np.uint32(0xFFFFFFFF)
_PIECE = 4 * BLOCK
"""Elements that are looked at before the doubtful ones among them are calculated in float64."""


@kernel
def _sum(base, tuned, coefficient, reach):
    """Return the bits of the sum in float32, and all ones if these may be wrong; both sides are a float32's bits."""
    before = np.uint32(base).view(np.float32)
    change = np.uint32(tuned).view(np.float32) - before
    is_far = not abs(change) < reach * abs(before)  # as it is too if that is zero, or NaN
    return np.float32(before + coefficient * change).view(np.uint32), _ALL if is_far else _0


@kernel
def _rounded(bits):
    """Round to nearest even, to the upper half of the bits."""
    return np.uint32(bits + _MIDWAY + np.uint32(np.uint32(bits >> _16) & _1))


@kernel
def _light(base, tuned, coefficient, reach, out, marks):
    """Write what float32 gives, and mark the elements of which that is not known to be right.

    Words of 32 bits hold two elements each, in each argument: a half of a word is widened and narrowed at no cost.
    """
    all_ = _0
    for i in range(len(out)):
        low, low_far = _sum(np.uint32(base[i] << _16), np.uint32(tuned[i] << _16), coefficient, reach)
        high, high_far = _sum(base[i] & _HIGH, tuned[i] & _HIGH, coefficient, reach)
        out[i] = np.uint32(np.uint32(_rounded(low) >> _16) | (_rounded(high) & _HIGH))
        marks[i] = np.uint32((low_far & _LOW) | (high_far & _HIGH))
        all_ = np.uint32(all_ | low | high)
    if all_ & _MAGNITUDE >= _LARGE:  # one of them is near to overflow, or several together look so
        marks[:] = _ALL


@kernel
def _marked(marks, fours, count, numbers):
    """Write the numbers of the elements that have a mark, and return how many they are."""
    found, i = np.uint64(0), np.uint64(0)
    for eight in range(count // 8):
        if fours[2 * eight] | fours[2 * eight + 1]:
            for place in range(8):
                at = np.uint64(i + np.uint64(place))
                numbers[found] = at
                found = np.uint64(found + np.uint64(marks[at] & 1))
        i = np.uint64(i + np.uint64(8))
    for _ in range(count % 8):
        numbers[found] = i
        found, i = np.uint64(found + np.uint64(marks[i] & 1)), np.uint64(i + np.uint64(1))
    return np.int64(found)


@kernel
def partway(base, tuned, coefficient, reach, count, out, scratch):
    """Write ``round(base + coefficient * (tuned - base))``, the sum as in float64; return 1 if all is finite, else 0.

    :param base: Address of bfloat16 elements, an even number of them in memory.
    :param tuned: Address of others, likewise.
    :param coefficient: As for ``bf16_blend_limits``.
    :param reach: What it says.
    :param count: Number of elements.
    :param out: Address of the result, bfloat16, with room for an even number.
    :param scratch: Address of 9 buffers of ``8 * BLOCK`` bytes.
    """
    light, near, size, finite = np.float32(coefficient), np.float32(reach), 8 * BLOCK, True
    marks, fours = array(scratch + 3 * size, _PIECE, np.uint16), array(scratch + 3 * size, _PIECE // 4, np.uint64)
    numbers = array(scratch + 4 * size, _PIECE + 1, np.uint16)
    few, few_tuned = array(scratch + 6 * size, _PIECE, np.uint16), array(scratch + 7 * size, _PIECE, np.uint16)
    results = array(scratch + 8 * size, _PIECE, np.uint16)
    for start in range(0, count, _PIECE):
        n, here, there, to = min(_PIECE, count - start), base + 2 * start, tuned + 2 * start, out + 2 * start
        words = (n + 1) // 2
        _light(
            array(here, words, np.uint32),
            array(there, words, np.uint32),
            light,
            near,
            array(to, words, np.uint32),
            array(scratch + 3 * size, words, np.uint32),
        )
        found = _marked(marks, fours, n, numbers)
        before, after, half = array(here, n, np.uint16), array(there, n, np.uint16), array(to, n, np.uint16)
        for i in range(found):
            few[i], few_tuned[i] = before[numbers[i]], after[numbers[i]]
        for first in range(0, found, BLOCK):
            few_n, at = min(BLOCK, found - first), scratch + 2 * first
            finite &= _precise(at + 6 * size, at + 7 * size, coefficient, few_n, at + 8 * size, scratch)
        for i in range(found):
            half[numbers[i]] = results[i]
    return np.int64(finite)


@kernel
def _precise(base, tuned, coefficient, count, out, scratch):
    """Do the same in float64, for at most a block."""
    wide, delta = array(scratch, count, np.float64), array(scratch + 8 * BLOCK, count, np.float64)
    widened(base, BRAIN, count, wide)
    scaled(tuned, BRAIN, count, wide, coefficient, delta)
    return finish(wide, delta, count, out, BRAIN, scratch + 16 * BLOCK)
