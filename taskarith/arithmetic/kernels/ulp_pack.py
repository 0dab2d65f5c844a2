"""Kernels for changes in units in the last place, which an exact task vector stores; compiled by numba.

Floats of one dtype have an order, from -NaN over -inf, -0.0 and 0.0 to NaN, and so a place in it, an unsigned integer.
The change of an element is the difference of two places, modulo two to the power of its bits; its sign is folded into
the lowest bit, so that small changes are small numbers. Training moves large and small weights about as far, so a
change has a bit less for each step of the base's exponent, which whoever reads the changes has too: it says how many
bits of a change are in the stream of bits. What a change has above them stands in a list of entries.

The functions follow the rules of ``arithmetic.kernels.linear``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import F16, F32, F64, array, kernel, width

__all__ = ["fold", "pack"]

_0, _1, _3, _7 = (np.uint64(number) for number in (0, 1, 3, 7))
_LARGEST = np.uint64((1 << 63) - 1)
ENTRY_BITS, PLACE_BITS = np.uint64(7), np.uint64(9)
"""Bits of an entry: of a change, and which element of its run it is."""


@intrinsic
def store(typing, address, value):
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
def _fraction(code):
    return np.uint64(52 if code == F64 else 23 if code == F32 else 10 if code == F16 else 7)


@kernel
def _exponent(element, code):
    magnitude = np.uint64(np.uint64(_1 << np.uint64(8 * width(code) - 1)) - _1)
    return np.uint64(np.uint64(np.uint64(element) & magnitude) >> _fraction(code))


@kernel
def bits_in_stream(element, code, widths):
    """Return how many bits of its change are there; ``widths`` as for ``pack``."""
    return np.uint64(min(max(widths[0] - np.int64(_exponent(element, code)), widths[1]), widths[2]))


@kernel
def _size(number):
    """Return how many bits a number has; of a very large one perhaps one more."""
    value = np.float64(np.float64(np.int64(min(np.uint64(number), _LARGEST))) + 0.5)
    return np.uint64(np.uint64(value.view(np.uint64) >> np.uint64(52)) - np.uint64(1022))


@kernel
def _fold(before, after, code, count, out, sizes):
    top, moved = np.uint64(8 * width(code) - 1), 0
    for i in range(count):
        moved += before[i] != after[i]
    for i in range(count):
        change = np.uint64(_place(after[i], top) - _place(before[i], top))
        sign = np.uint64(_0 - (np.uint64(change >> top) & _1))
        out[i] = np.uint64(np.uint64(change << _1) ^ sign)
    for i in range(count):
        row = np.uint64(_exponent(before[i], code) * np.uint64(65))
        sizes[np.uint64(row + _size(out[i]))] += 1
    return moved


@kernel
def fold(before, after, code, count, out, sizes):
    """Write the folded changes of some elements; return how many are not zero.

    :param before: Address of the base's elements.
    :param after: Address of the fine-tune's elements.
    :param code: Their dtype, as in ``rounding``.
    :param count: Number of elements.
    :param out: Address of the changes, as wide as elements.
    :param sizes: Address of 65 int64 for each exponent of the dtype, to which is added how many changes of how many
        bits there are, for each exponent of the base.
    """
    found = array(sizes, np.uint64(65) << np.uint64(8 * width(code) - 1 - _fraction(code)), np.int64)
    if width(code) == 2:
        before16, after16 = array(before, count, np.uint16), array(after, count, np.uint16)
        return np.int64(_fold(before16, after16, code, count, array(out, count, np.uint16), found))
    if code == F32:
        before32, after32 = array(before, count, np.uint32), array(after, count, np.uint32)
        return np.int64(_fold(before32, after32, code, count, array(out, count, np.uint32), found))
    before64, after64 = array(before, count, np.uint64), array(after, count, np.uint64)
    return np.int64(_fold(before64, after64, code, count, array(out, count, np.uint64), found))


@kernel
def _pack(before, changes, code, widths, out, tables):
    count, to, left, filled, bits, number = len(before), np.uint64(out), _0, _0, _0, 0
    runs = (count + BLOCK - 1) // BLOCK
    lengths, counts, entries = tables[:runs], tables[runs : 2 * runs], tables[2 * runs :]
    for first in range(0, count, BLOCK):
        n, any_, size, begun = min(BLOCK, count - first), _0, _0, number
        for i in range(first, first + n):
            any_ |= np.uint64(changes[i])
        if any_:
            for i in range(first, first + n):
                low, change = bits_in_stream(before[i], code, widths), np.uint64(changes[i])
                above = np.uint64(change >> low)
                left = np.uint64(left | np.uint64(np.uint64(change ^ np.uint64(above << low)) << filled))
                while above:
                    entries[number] = np.uint16(np.uint64(above << PLACE_BITS) | np.uint64(i - first))
                    above = np.uint64(above >> ENTRY_BITS)
                    number += 1
                store(np.int64(to), left)  # ty: ignore[missing-argument]
                filled, size = np.uint64(filled + low), np.uint64(size + low)
                to = np.uint64(to + np.uint64(filled >> _3))
                left, filled = np.uint64(left >> np.uint64(filled & ~_7)), np.uint64(filled & _7)
        run = first // BLOCK
        lengths[run], counts[run], bits = np.uint16(size), np.uint16(number - begun), np.uint64(bits + size)
    return np.int64(bits)


@kernel
def pack(before, changes, code, widths, count, out, tables, size):
    """Write the changes as a stream of bits, the lowest first; return how many bits it has.

    :param before: Address of the base's elements.
    :param changes: Address of what ``fold`` wrote.
    :param code: The elements' dtype.
    :param widths: Address of three int64: how many bits of a change and its base's exponent there are together, the
        fewest bits of a change that are in the stream whatever the exponent, and the most, at most 56.
    :param count: Number of elements.
    :param out: Address of the stream, with 8 bytes more than it needs.
    :param tables: Address of uint16: for each run of ``BLOCK`` elements how many bits it has, none if nothing changes;
        for each run how many entries it has; the entries: for each change that has further bits, seven of them, the
        lowest first, above the number of the element in its run, then the next seven, as long as there are any.
    :param size: How many uint16 there are.
    """
    three, tables = array(widths, 3, np.int64), array(tables, size, np.uint16)
    if width(code) == 2:
        before16, changes16 = array(before, count, np.uint16), array(changes, count, np.uint16)
        return _pack(before16, changes16, code, three, out, tables)
    if code == F32:
        before32, changes32 = array(before, count, np.uint32), array(changes, count, np.uint32)
        return _pack(before32, changes32, code, three, out, tables)
    before64, changes64 = array(before, count, np.uint64), array(changes, count, np.uint64)
    return _pack(before64, changes64, code, three, out, tables)
