"""Kernels for changes in units in the last place, which an exact task vector stores; compiled by numba.

Floats of one dtype have an order, from -NaN over -inf, -0.0 and 0.0 to NaN, and so a place in it, an unsigned integer.
The change of an element is the difference of two places, modulo two to the power of its bits; its sign is folded into
the lowest bit, so that small changes are small numbers. All first bytes of these form a plane, then all second ones.

The functions follow the rules of ``arithmetic.kernels``.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.compiled import BLOCK
from taskarith.arithmetic.rounding import array, kernel

__all__ = ["fold", "squeeze", "unfold"]

_1 = np.uint64(1)


@kernel
def _place(bits, top):
    """Return the place of a float in the order of its dtype; ``top`` is the number of its highest bit."""
    bits = np.uint64(bits)
    return np.uint64(bits ^ (np.uint64(np.uint64(0) - (bits >> top)) | np.uint64(_1 << top)))


@kernel
def _at_place(place, top):
    """Return the bits of the float at a place, above which there may be others."""
    low = np.uint64(np.uint64(place >> top) & _1) ^ _1
    return np.uint64(place ^ (np.uint64(np.uint64(0) - low) | np.uint64(_1 << top)))


@kernel
def _fold(before, after, width, count, out):
    top = np.uint64(8 * width - 1)
    moved = 0
    for i in range(count):
        moved += before[i] != after[i]
    for plane in range(width):
        to, shift = array(out + plane * count, count, np.uint8), np.uint64(8 * plane)
        for i in range(count):
            change = np.uint64(_place(after[i], top) - _place(before[i], top))
            sign = np.uint64(np.uint64(0) - (np.uint64(change >> top) & _1))
            to[i] = np.uint8(np.uint64(np.uint64(change << _1) ^ sign) >> shift)
    return moved


@kernel
def fold(before, after, width, count, out):
    """Write the folded changes of some elements as ``width`` planes of ``count`` bytes; return how many are not zero.

    :param before: Address of the base's elements.
    :param after: Address of the fine-tune's elements, of the same dtype.
    :param width: Bytes of an element: 2, 4 or 8.
    :param count: Number of elements.
    :param out: Address of ``width * count`` bytes.
    """
    if width == 2:
        return np.int64(_fold(array(before, count, np.uint16), array(after, count, np.uint16), 2, count, out))
    if width == 4:
        return np.int64(_fold(array(before, count, np.uint32), array(after, count, np.uint32), 4, count, out))
    return np.int64(_fold(array(before, count, np.uint64), array(after, count, np.uint64), 8, count, out))


@kernel
def squeeze(planes, width, count, mask):
    """Move the changes that are not zero to the front of each plane, and set a bit for each of them; return how many.

    :param planes: Address of what ``fold`` wrote.
    :param width: Number of planes.
    :param count: Bytes of each.
    :param mask: Address of one bit an element, the lowest of a byte first, all zero.
    """
    flags = array(mask, (count + 7) // 8, np.uint8)
    bytes_ = array(planes, width * count, np.uint8)
    position = np.uint64(0)
    for i in range(count):
        any_ = np.uint8(0)
        for plane in range(width):
            row = np.uint64(plane * count)
            value = bytes_[np.uint64(row + np.uint64(i))]
            bytes_[np.uint64(row + position)] = value
            any_ = np.uint8(any_ | value)
        moved = np.uint64(any_ != 0)
        flags[np.uint64(i >> 3)] |= np.uint8(moved << np.uint64(i & 7))
        position = np.uint64(position + moved)
    return np.int64(position)


@kernel
def _gather(parts, width, start, count, out):
    """Put the planes of some elements together again."""
    where = array(parts, width, np.int64)
    out[:] = 0
    for plane in range(0, width, 2):
        low, high = array(where[plane] + start, count, np.uint8), array(where[plane + 1] + start, count, np.uint8)
        shift = np.uint64(8 * plane)
        for i in range(count):
            out[i] |= np.uint64(np.uint64(np.uint32(low[i]) | np.uint32(np.uint32(high[i]) << np.uint32(8))) << shift)


@kernel
def _pair(low, high, at, bit, shift):
    both = np.uint32(np.uint32(low[at]) | np.uint32(np.uint32(high[at]) << np.uint32(8)))
    return np.uint64(np.uint64(both & np.uint32(np.uint32(0) - np.uint32(bit))) << shift)


@kernel
def _spread(low, high, flags, position, start, count, shift, out):
    """Add two planes that have only the changes that are not zero; return the position after them.

    The planes may be read one byte beyond their end, where the element there is not moved. Indices are unsigned, for
    which numba does not look whether they count from the end.
    """
    at = np.uint64(position)
    head = min(count, -start & 7)
    tail = head + (count - head) // 8 * 8
    for i in range(head):
        bit = np.uint64(np.uint64(flags[(start + i) >> 3]) >> np.uint64((start + i) & 7)) & _1
        out[i] |= _pair(low, high, at, bit, shift)
        at = np.uint64(at + bit)
    for i in range(head, tail, 8):
        bits, first = np.uint64(flags[(start + i) >> 3]), np.uint64(i)
        for k in range(8):
            bit = np.uint64(bits >> np.uint64(k)) & _1
            out[np.uint64(first + np.uint64(k))] |= _pair(low, high, at, bit, shift)
            at = np.uint64(at + bit)
    for i in range(tail, count):
        bit = np.uint64(np.uint64(flags[(start + i) >> 3]) >> np.uint64((start + i) & 7)) & _1
        out[i] |= _pair(low, high, at, bit, shift)
        at = np.uint64(at + bit)
    return np.int64(at)


@kernel
def _unfold(before, parts, width, flags, moved, position, start, count, out):
    top, where = np.uint64(8 * width - 1), array(parts, width, np.int64)
    for first in range(0, count, BLOCK):
        n = min(BLOCK, count - first)
        to, origin = out[first : first + n], before[first : first + n]
        if moved < 0:
            _gather(parts, width, start + first, n, to)
        else:
            to[:] = 0
            after = position
            for plane in range(0, width, 2):
                low = array(where[plane], moved + 1, np.uint8)
                high = array(where[plane + 1], moved + 1, np.uint8)
                after = _spread(low, high, flags, position, start + first, n, np.uint64(8 * plane), to)
            position = after
        for i in range(n):
            folded = np.uint64(to[i])
            change = np.uint64((folded >> _1) ^ np.uint64(np.uint64(0) - (folded & _1)))
            to[i] = _at_place(np.uint64(_place(origin[i], top) + change), top)
    return position


@kernel
def unfold(before, parts, width, mask, moved, position, start, count, out):
    """Write the fine-tune's elements from the base's and the changes; return the position after them.

    :param before: Address of the base's elements.
    :param parts: Address of the addresses (int64) of the planes of a block. With a mask a plane is readable one byte
        beyond its end.
    :param width: Bytes of an element: 2, 4 or 8.
    :param mask: Address of one bit for each element of the block that says whether it has a change in the planes.
    :param moved: Number of changes in the planes; -1 if all elements have one, and there is no mask.
    :param position: Number of changes before the first element that is wanted.
    :param start: Its number in the block.
    :param count: Number of elements.
    :param out: Address of the result.
    """
    flags = array(mask, (start + count + 7) // 8, np.uint8)
    if width == 2:
        before16, out16 = array(before, count, np.uint16), array(out, count, np.uint16)
        return np.int64(_unfold(before16, parts, 2, flags, moved, position, start, count, out16))
    if width == 4:
        before32, out32 = array(before, count, np.uint32), array(out, count, np.uint32)
        return np.int64(_unfold(before32, parts, 4, flags, moved, position, start, count, out32))
    before64, out64 = array(before, count, np.uint64), array(out, count, np.uint64)
    return np.int64(_unfold(before64, parts, 8, flags, moved, position, start, count, out64))
