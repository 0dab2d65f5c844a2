"""Kernels for changes in units in the last place, which an exact task vector stores; compiled by numba.

Floats of one dtype have an order, from -NaN over -inf, -0.0 and 0.0 to NaN, and so a place in it, an unsigned integer.
The change of an element is the difference of two places, modulo two to the power of its bits; its sign is folded into
the lowest bit, so that small changes are small numbers. How small depends on the exponent of the base's element, which
whoever reads the changes has too: it says how many bits of a change are in the stream of bits.

The functions follow the rules of ``arithmetic.kernels``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskarith.arithmetic.compiled import BLOCK
from taskarith.arithmetic.rounding import array, kernel

__all__ = ["exponent", "fold", "pack"]

_0, _1, _3, _7, _8 = (np.uint64(number) for number in (0, 1, 3, 7, 8))
_LARGEST = np.uint64((1 << 63) - 1)


@intrinsic
def _store(typing, address, value):
    """Write 8 bytes to any address."""
    del typing

    def generate(context, builder, _, given):
        builder.store(given[1], builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(address, value), generate


@kernel
def _place(bits, top):
    """Return the place of a float in the order of its dtype; ``top`` is the number of its highest bit."""
    bits = np.uint64(bits)
    return np.uint64(bits ^ (np.uint64(_0 - (bits >> top)) | np.uint64(_1 << top)))


@kernel
def exponent(bits, shift):
    """Return the 8 bits after the sign of an element, which ``shift`` brings down."""
    return np.uint64(np.uint64(np.uint64(bits) >> shift) & np.uint64(255))


@kernel
def _size(number):
    """Return how many bits a number has; of a very large one perhaps one more."""
    value = np.float64(np.float64(np.int64(min(np.uint64(number), _LARGEST))) + 0.5)
    return np.uint64(np.uint64(value.view(np.uint64) >> np.uint64(52)) - np.uint64(1022))


@kernel
def _fold(before, after, width, count, out, sizes):
    top = np.uint64(8 * width - 1)
    moved = 0
    for i in range(count):
        moved += before[i] != after[i]
    for i in range(count):
        change = np.uint64(_place(after[i], top) - _place(before[i], top))
        sign = np.uint64(_0 - (np.uint64(change >> top) & _1))
        out[i] = np.uint64(np.uint64(change << _1) ^ sign)
    for i in range(count):
        row = np.uint64(exponent(before[i], np.uint64(top - _8)) * np.uint64(65))
        sizes[np.uint64(row + _size(out[i]))] += 1
    return moved


@kernel
def fold(before, after, width, count, out, sizes):
    """Write the folded changes of some elements; return how many are not zero.

    :param before: Address of the base's elements.
    :param after: Address of the fine-tune's elements, of the same dtype.
    :param width: Bytes of an element: 2, 4 or 8.
    :param count: Number of elements.
    :param out: Address of the changes, of the same width.
    :param sizes: Address of 256 times 65 int64, to which is added how many changes of how many bits there are, for each
        exponent of the base.
    """
    found = array(sizes, 256 * 65, np.int64)
    if width == 2:
        before16, after16 = array(before, count, np.uint16), array(after, count, np.uint16)
        return np.int64(_fold(before16, after16, 2, count, array(out, count, np.uint16), found))
    if width == 4:
        before32, after32 = array(before, count, np.uint32), array(after, count, np.uint32)
        return np.int64(_fold(before32, after32, 4, count, array(out, count, np.uint32), found))
    before64, after64 = array(before, count, np.uint64), array(after, count, np.uint64)
    return np.int64(_fold(before64, after64, 8, count, array(out, count, np.uint64), found))


@kernel
def _pack(before, changes, shift, widths, count, out, lengths, gaps, high):
    to, left, filled, rest, last = np.uint64(out), _0, _0, 0, 0
    for first in range(0, count, BLOCK):
        n, any_, size = min(BLOCK, count - first), _0, _0
        for i in range(first, first + n):
            any_ |= np.uint64(changes[i])
        if any_:
            for i in range(first, first + n):
                width, change = np.uint64(widths[exponent(before[i], shift)]), np.uint64(changes[i])
                above = np.uint64(change >> width)
                if above:
                    gaps[rest], high[rest] = np.uint32(i - last), above
                    last = i
                    rest += 1
                left = np.uint64(left | np.uint64(np.uint64(change ^ np.uint64(above << width)) << filled))
                _store(np.int64(to), left)  # ty: ignore[missing-argument]
                filled, size = np.uint64(filled + width), np.uint64(size + width)
                to = np.uint64(to + np.uint64(filled >> _3))
                left, filled = np.uint64(left >> np.uint64(filled & ~_7)), np.uint64(filled & _7)
        lengths[first // BLOCK] = np.uint16(size)
    return np.int64(rest)


@kernel
def pack(before, changes, width, widths, count, out, lengths, gaps, high):
    """Write the changes as a stream of bits, the lowest first; return how many have bits that are not in it.

    :param before: Address of the base's elements.
    :param changes: Address of what ``fold`` wrote.
    :param width: Bytes of an element.
    :param widths: Address of 256 bytes: how many bits of a change are in the stream, at most 56, for each exponent.
    :param count: Number of elements.
    :param out: Address of the stream, all zero, with 8 bytes more than it needs.
    :param lengths: Address of a uint16 for each run of ``BLOCK`` elements, which takes how many bits it has; a run
        without any change has none.
    :param gaps: Address of a uint32 for each change that has further bits: how far it is from the one before.
    :param high: Address of these bits, as elements.
    """
    runs, table = (count + BLOCK - 1) // BLOCK, array(widths, 256, np.uint8)
    sizes, where, shift = array(lengths, runs, np.uint16), array(gaps, count, np.uint32), np.uint64(8 * width - 9)
    if width == 2:
        before16, changes16 = array(before, count, np.uint16), array(changes, count, np.uint16)
        high16 = array(high, count, np.uint16)
        return _pack(before16, changes16, shift, table, count, out, sizes, where, high16)
    if width == 4:
        before32, changes32 = array(before, count, np.uint32), array(changes, count, np.uint32)
        high32 = array(high, count, np.uint32)
        return _pack(before32, changes32, shift, table, count, out, sizes, where, high32)
    before64, changes64 = array(before, count, np.uint64), array(changes, count, np.uint64)
    return _pack(before64, changes64, shift, table, count, out, sizes, where, array(high, count, np.uint64))
