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

__all__ = ["fold", "pack", "unfold"]

_0, _1, _3, _7, _8 = (np.uint64(number) for number in (0, 1, 3, 7, 8))
_LARGEST = np.uint64((1 << 63) - 1)


@intrinsic
def _load(typing, address):
    """Return the 8 bytes at any address."""
    del typing

    def generate(_, builder, __, given):
        return builder.load(builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(address), generate


@intrinsic
def _store(typing, address, value):
    """Write 8 bytes to any address."""
    del typing

    def generate(context, builder, _, given):
        builder.store(given[1], builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(address, value), generate


def _step_for(kind):
    """Return the kernel that moves elements by folded changes, in arithmetic of their own width: it vectorises."""
    most, last = kind(np.iinfo(kind).max), np.iinfo(kind).bits - 1

    @kernel
    def step(before, changes):
        """Replace changes by the fine-tune's elements; both are seen as signed numbers."""
        for i in range(len(changes)):
            folded, bits = kind(changes[i]), kind(before[i])
            change = kind(kind(kind(folded >> 1) & most) ^ kind(-kind(folded & kind(1))))
            place = kind(kind(bits ^ kind(kind(bits >> last) & most)) + change)
            changes[i] = kind(place ^ kind(kind(place >> last) & most))

    return step


_step16, _step32, _step64 = (_step_for(kind) for kind in (np.int16, np.int32, np.int64))


@kernel
def _place(bits, top):
    """Return the place of a float in the order of its dtype; ``top`` is the number of its highest bit."""
    bits = np.uint64(bits)
    return np.uint64(bits ^ (np.uint64(_0 - (bits >> top)) | np.uint64(_1 << top)))


@kernel
def _exponent(bits, shift):
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
        row = np.uint64(_exponent(before[i], np.uint64(top - _8)) * np.uint64(65))
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
                width, change = np.uint64(widths[_exponent(before[i], shift)]), np.uint64(changes[i])
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


@kernel
def _unpack(before, shift, widths, _most, count, stream, position, out):
    """Read some changes from the stream, each of at most ``_most`` bits; return the position after them."""
    address = np.uint64(stream)
    for i in range(count):
        width = _width(widths, before[i], shift)
        out[i] = _low(_bits_at(address, position), width)
        position = np.uint64(position + width)
    return position


@kernel
def _unpack_fours(before, shift, widths, most, count, stream, position, out):
    """Do the same, four changes a load where they are among the 57 bits that it gives at least."""
    address, first = np.uint64(stream), 0
    if most <= 14:
        first = count - count % 4
        for i in range(0, first, 4):
            bits = _bits_at(address, position)
            one, two = _width(widths, before[i], shift), _width(widths, before[i + 1], shift)
            three, four = _width(widths, before[i + 2], shift), _width(widths, before[i + 3], shift)
            out[i], bits = _low(bits, one), np.uint64(bits >> one)
            out[i + 1], bits = _low(bits, two), np.uint64(bits >> two)
            out[i + 2], bits = _low(bits, three), np.uint64(bits >> three)
            out[i + 3] = _low(bits, four)
            position = np.uint64(position + np.uint64(np.uint64(one + two) + np.uint64(three + four)))
    return _unpack(before[first:], shift, widths, most, count - first, stream, position, out[first:])


@kernel
def _bits_at(address, position):
    """Return what is in the stream from a bit on: 57 bits of it, or more."""
    byte = np.int64(address + np.uint64(position >> _3))
    return np.uint64(_load(byte) >> np.uint64(position & _7))  # ty: ignore[missing-argument]


@kernel
def _width(widths, bits, shift):
    return np.uint64(widths[_exponent(bits, shift)])


@kernel
def _low(bits, width):
    return np.uint64(bits & np.uint64(np.uint64(_1 << width) - _1))


@kernel
def _joined(planes, count, width, index):
    """Return one of some numbers whose lowest bytes stand first, then all second ones, and so on."""
    number = _0
    for place in range(width):
        number |= np.uint64(np.uint64(planes[place * count + index]) << np.uint64(8 * place))
    return number


@kernel
def _unfold(before, kind, step, unpack, width, widths, stream, lengths, gaps, high, rest, state, start, count, out):
    shift, runs, most = np.uint64(8 * width - 9), len(lengths) // 2, np.uint8(0)
    for exponent in range(256):
        most = max(most, widths[exponent])
    position, one, place, begun, done = np.uint64(state[0]), state[1], state[2], state[3], 0
    while done < count:
        begin = (start + done) % BLOCK
        run, n = (start + done) // BLOCK, min(BLOCK - begin, count - done)
        to, origin, size = out[done : done + n], before[done : done + n], np.int64(_joined(lengths, runs, 2, run))
        if begin == 0:
            position = np.uint64(begun)
        if size == 0:
            to[:] = 0
        else:
            address = stream[0] if begun >> 3 < stream[1] else stream[2] - stream[1]
            position = unpack(origin, shift, widths, most, n, address, position, to)
        while one < rest:
            gap = np.int64(_joined(gaps, rest, 4, one))
            if place + gap >= start + done + n:
                break
            place += gap
            i = max(0, place - start - done)
            above = np.uint64(_joined(high, rest, width, one) << np.uint64(widths[_exponent(origin[i], shift)]))
            to[i] |= above
            one += 1
        step(origin.view(kind), to.view(kind))
        done += n
        if begin + n == BLOCK:
            begun += size
    state[0], state[1], state[2], state[3] = np.int64(position), one, place, begun


@kernel
def unfold(before, width, widths, stream, lengths, runs, gaps, high, rest, state, start, count, out):
    """Write the fine-tune's elements from the base's and the changes.

    :param before: Address of the base's elements.
    :param width: Bytes of an element: 2, 4 or 8.
    :param widths: Address of 256 bytes, at most 56, as in ``pack``.
    :param stream: Address of three int64: that of the stream; how many bytes of it come before its end, which is there
        once more; the address of that. From wherever a run begins ``7 * BLOCK + 8`` bytes can be read, there or in the
        end, so that no base, a wrong one included, leads outside.
    :param lengths: Address of how many bits each run has in the stream: the lower bytes of all runs, then the upper.
    :param runs: Number of runs of the block.
    :param gaps: Address of how far each change that has further bits is from the one before: their lowest bytes, then
        all second ones, and so on, four of each.
    :param high: Address of these bits, likewise, as elements.
    :param rest: How many there are.
    :param state: Address of four int64, for the next call: where in the stream the first element that is wanted begins
        if that is not where a run does; how many of ``gaps`` come before it, and their sum; where its run begins.
    :param start: Number of the first element that is wanted, in the block.
    :param count: Number of elements.
    :param out: Address of the result.
    """
    table, where, now = array(widths, 256, np.uint8), array(stream, 3, np.int64), array(state, 4, np.int64)
    sizes, steps = array(lengths, 2 * runs, np.uint8), array(gaps, 4 * rest, np.uint8)
    above = array(high, width * rest, np.uint8)
    if width == 2:
        before16, out16 = array(before, count, np.uint16), array(out, count, np.uint16)
        _unfold(
            before16,
            np.int16,
            _step16,
            _unpack_fours,
            2,
            table,
            where,
            sizes,
            steps,
            above,
            rest,
            now,
            start,
            count,
            out16,
        )
    elif width == 4:
        before32, out32 = array(before, count, np.uint32), array(out, count, np.uint32)
        _unfold(
            before32, np.int32, _step32, _unpack, 4, table, where, sizes, steps, above, rest, now, start, count, out32
        )
    else:
        before64, out64 = array(before, count, np.uint64), array(out, count, np.uint64)
        _unfold(
            before64, np.int64, _step64, _unpack, 8, table, where, sizes, steps, above, rest, now, start, count, out64
        )
    return np.int64(0)
