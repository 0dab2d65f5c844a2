"""Kernels that restore elements from the changes that ``arithmetic.packing`` writes; compiled by numba."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskarith.arithmetic.compiled import BLOCK
from taskarith.arithmetic.packing import exponent
from taskarith.arithmetic.rounding import array, kernel

__all__ = ["unfold"]

_0, _1, _3, _7 = (np.uint64(number) for number in (0, 1, 3, 7))


@intrinsic
def _load(typing, address):
    """Return the 8 bytes at any address."""
    del typing

    def generate(_, builder, __, given):
        return builder.load(builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(address), generate


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
    return np.uint64(widths[exponent(bits, shift)])


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
    for i in range(256):
        most = max(most, widths[i])
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
            above = np.uint64(_joined(high, rest, width, one) << np.uint64(widths[exponent(origin[i], shift)]))
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
