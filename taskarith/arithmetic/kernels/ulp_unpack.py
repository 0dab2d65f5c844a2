"""Kernels that restore elements from the changes that ``arithmetic.kernels.ulp_pack`` writes; compiled by numba."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import BF16, F16, F32, F64, array, kernel
from taskarith.arithmetic.kernels.ulp_pack import ENTRY_BITS, PLACE_BITS, bits_in_stream, store

__all__ = ["unfold"]

_0, _1, _3, _7, _8 = (np.uint64(number) for number in (0, 1, 3, 7, 8))
_16, _63, _LANE, _PLACES = (np.uint64(number) for number in (16, 63, 0xFFFF, BLOCK - 1))


@intrinsic
def _load(typing, address):
    """Return the 8 bytes at any address."""
    del typing

    def generate(_, builder, __, given):
        return builder.load(builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(address), generate


def _call(builder, name, given):
    """Call an LLVM function from 64-bit integers to one."""
    kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * len(given))
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), given)


@intrinsic
def _ones(typing, bits):
    """Count the bits that are set."""
    del typing
    return types.uint64(bits), lambda _, builder, __, given: _call(builder, "llvm.ctpop.i64", given)


@intrinsic
def _spread_at_once(typing, bits, masks):
    """Do what ``spread`` does, by one instruction that some processors have."""
    del typing
    return types.uint64(bits, masks), lambda _, builder, __, given: _call(builder, "llvm.x86.bmi.pdep.64", given)


@kernel
def spread(bits, masks):
    """Put the lowest bits where those of ``masks`` are; these are the lowest ones of each of its four lanes."""
    result, at = _0, _0
    for _ in range(4):
        mask = np.uint64(np.uint64(masks >> at) & _LANE)
        result = np.uint64(result | np.uint64(np.uint64(bits & mask) << at))
        bits, at = np.uint64(bits >> _ones(mask)), np.uint64(at + _16)  # ty: ignore[missing-argument]
    return result


_IS_QUICK = bool(llvm.get_host_cpu_features().get("bmi2")) and llvm.get_host_cpu_name() not in {"znver1", "znver2"}
_spread = _spread_at_once if _IS_QUICK else spread  # those two take some hundred cycles for it


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


def _masks_for(kind, wide, fraction):
    """Return the kernel that says which bits of each change are in the stream, likewise."""
    magnitude, limit = kind(np.iinfo(kind).max), kind(15 if kind == np.int16 else 63)

    @kernel
    def masks(before, widths, out):
        """Write as many ones, the lowest bits, as the stream has for each change."""
        both, least, most = kind(widths[0]), kind(widths[1]), kind(widths[2])
        for i in range(len(out)):
            exponent = kind(kind(kind(before[i]) & magnitude) >> fraction)
            width = wide(kind(min(max(kind(both - exponent), least), most)) & limit)
            out[i] = wide(wide(wide(1) << width) - wide(1))

    return masks


@kernel
def _bits_at(address, position):
    """Return what is in the stream from a bit on: 57 bits of it, or more."""
    byte = np.int64(address + np.uint64(position >> _3))
    return np.uint64(_load(byte) >> np.uint64(position & _7))  # ty: ignore[missing-argument]


@kernel
def _unpack(out, stream, position):
    """Replace masks by the changes' bits in the stream; return the position after them."""
    address = np.uint64(stream)
    for i in range(len(out)):
        mask = np.uint64(out[i])
        out[i] = np.uint64(_bits_at(address, position) & mask)
        position = np.uint64(position + _ones(mask))  # ty: ignore[missing-argument]
    return position


@kernel
def _unpack_fours(out, stream, position):
    """Do the same with uint16, four changes a load: no mask has more than 14 bits."""
    address, to, fours = np.uint64(stream), np.uint64(out.ctypes.data), len(out) // 4
    for _ in range(fours):
        masks = _load(np.int64(to))  # ty: ignore[missing-argument]
        store(np.int64(to), _spread(_bits_at(address, position), masks))  # ty: ignore[missing-argument]
        position, to = np.uint64(position + _ones(masks)), np.uint64(to + _8)
    return _unpack(out[4 * fours :], stream, position)


@kernel
def _add_entries(entries, one, last, offset, before, code, widths, out):
    """Add the bits that are not in the stream; return the first entry of an element that is not there."""
    previous, shift = np.int64(-1), _0
    while one < last:
        entry = np.uint64(entries[one])
        place = np.int64(entry & _PLACES) - offset
        if not max(previous, 0) <= place < len(out):
            break
        again = np.uint64(min(np.uint64(shift + ENTRY_BITS), _63))
        shift = again if place == previous else bits_in_stream(before[place], code, widths)
        out[place] |= np.uint64(np.uint64(entry >> PLACE_BITS) << shift)
        one, previous = one + 1, place
    return one


def _unfold_for(kind, code, masks, unpack, step):
    """Return the kernel that does what ``unfold`` does for one dtype."""

    @kernel
    def unfold_elements(before, parts, state, start, out):
        widths, elements, count = parts[4:7], parts[7], len(out)
        runs = (elements + BLOCK - 1) // BLOCK
        lengths, counts = array(parts[8], runs, np.uint16), array(parts[9], runs, np.uint16)
        entries = array(parts[10], parts[11], np.uint16)
        position, begun, one, last = np.uint64(state[0]), state[1], state[2], state[3]
        done = 0
        while done < count:
            offset, run = (start + done) % BLOCK, (start + done) // BLOCK
            n, size = min(BLOCK - offset, count - done), np.int64(lengths[run])
            to, origin = out[done : done + n], before[done : done + n]
            if offset == 0:
                position, last = np.uint64(begun), one + np.int64(counts[run])
            if (begun + size + 7) >> 3 > parts[1] or last > len(entries):
                return np.int64(0)
            if size == 0:
                to[:] = 0
            else:
                masks(origin, widths, to)
                position = unpack(to, parts[0] if begun >> 3 < parts[2] else parts[3] - parts[2], position)
            one = _add_entries(entries, one, last, offset, origin, code, widths, to)
            step(origin.view(kind), to.view(kind))
            done += n
            if offset + n == BLOCK or start + done == elements:
                if one < last:
                    return np.int64(0)
                begun += size
        state[0], state[1], state[2], state[3] = np.int64(position), begun, one, last
        return np.int64(1)

    return unfold_elements


_unfold_bf16, _unfold_f16, _unfold_f32, _unfold_f64 = (
    _unfold_for(np.int16, BF16, _masks_for(np.int16, np.uint32, 7), _unpack_fours, _step16),
    _unfold_for(np.int16, F16, _masks_for(np.int16, np.uint32, 10), _unpack_fours, _step16),
    _unfold_for(np.int32, F32, _masks_for(np.int32, np.uint64, 23), _unpack, _step32),
    _unfold_for(np.int64, F64, _masks_for(np.int64, np.uint64, 52), _unpack, _step64),
)


@kernel
def unfold(before, code, parts, state, start, count, out):
    """Write the fine-tune's elements from the base's and the changes.

    :param before: Address of the base's elements.
    :param code: Their dtype.
    :param parts: Address of twelve int64: the address of the stream; its bytes; how many of them come before its end,
        which is there once more; the address of that; three widths, as for ``pack``, the most at most 14 for 16 bits;
        the elements of the block; the addresses of the lengths, of the counts and of the entries; how many of these
        there are. From wherever a run begins ``7 * BLOCK + 8`` bytes can be read, there or in the end, so that no base,
        a wrong one included, leads outside.
    :param state: Address of four int64, for the next call: where in the stream the first element that is wanted begins
        if that is not where a run does; where its run begins; how many entries come before it, and before its run ends
        if it is not the first one of a run.
    :param start: Number of the first element that is wanted, in the block.
    :param count: Number of elements.
    :param out: Address of the result.
    :returns: 1, or 0 if the parts do not fit each other; nothing outside them was looked at then.
    """
    parts, now = array(parts, 12, np.int64), array(state, 4, np.int64)
    if code in (BF16, F16):
        before16, out16 = array(before, count, np.uint16), array(out, count, np.uint16)
        if code == BF16:
            return _unfold_bf16(before16, parts, now, start, out16)
        return _unfold_f16(before16, parts, now, start, out16)
    if code == F32:
        before32, out32 = array(before, count, np.uint32), array(out, count, np.uint32)
        return _unfold_f32(before32, parts, now, start, out32)
    before64, out64 = array(before, count, np.uint64), array(out, count, np.uint64)
    return _unfold_f64(before64, parts, now, start, out64)
