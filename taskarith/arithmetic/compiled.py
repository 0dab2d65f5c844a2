"""The arithmetic of one chunk on the CPU, compiled by numba: float64 in registers and cache, rounded once.

Same bits as ``arithmetic.tensors``, which does the same with torch. Work goes block by block through buffers that stay
in the core's first caches; every inner loop is of one kind, so that the compiler vectorises it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["DTYPE_CODES", "difference", "from_wide", "linear", "low_rank", "to_wide"]

DTYPE_CODES = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3}
"""How the kernels call safetensors' float dtypes."""

_BLOCK = 1024
_F64, _F32, _F16 = DTYPE_CODES["F64"], DTYPE_CODES["F32"], DTYPE_CODES["F16"]
_U0, _U1 = np.uint32(0), np.uint32(1)
_INFINITY = np.uint32(0x7F800000)
_SMALL = np.uint32(0x01000000)
_LOST = np.uint64((1 << 29) - 1)

_kernel = njit(nogil=True, cache=True, error_model="numpy")


@_kernel
def to_wide(row, code, start, count, bits, wide):
    """Widen elements of a row of bytes to float64, exactly; ``bits`` is scratch (uint32)."""
    single = bits.view(np.float32)
    if code == _F64:
        doubles = row.view(np.float64)[start : start + count]
        for i in range(count):
            wide[i] = doubles[i]
    elif code == _F32:
        singles = row.view(np.float32)[start : start + count]
        for i in range(count):
            wide[i] = singles[i]
    else:
        halves = row.view(np.uint16)[start : start + count]
        if code == _F16:  # shift into the place of float32's fields, then correct the exponent's bias
            for i in range(count):
                bits[i] = np.uint32(halves[i] & 0x7FFF) << np.uint32(13)
            for i in range(count):
                single[i] = single[i] * np.float32(2.0**112)
            for i in range(count):
                value = bits[i]
                value = value | _INFINITY if value >= np.uint32(0x47800000) else value
                bits[i] = value | (np.uint32(halves[i] & 0x8000) << np.uint32(16))
        else:
            for i in range(count):
                bits[i] = np.uint32(halves[i]) << np.uint32(16)
        for i in range(count):
            wide[i] = single[i]


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _poison(values, count):
    """Return 0 if all values are finite, else NaN."""
    total = values[0] * 0
    for i in range(1, count):
        total += values[i] * 0
    return total


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _squares(values, count):
    total = 0.0
    for i in range(count):
        total += values[i] * values[i]
    return total


@_kernel
def _add_unless_zero(base, total, count, out):
    """Write ``base + total``, and the bits of ``base`` where ``total`` is zero (-0.0 + 0.0 would be 0.0)."""
    for i in range(count):  # `out` is an array of its own: in place, this would compile to a conditional store
        x, y = base[i], total[i]
        both = x + y
        out[i] = x if y == 0 else both


@_kernel
def _to_odd(wide, count, bits, raw):
    """Round float64 to float32 ``bits``, to odd: an inexact value ends in 1.

    A second rounding, to 16 bits, is then right: it sees on which side of a midpoint the value was (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Transactions on Computers 57 (4), 2008).
    Near float32's least normal number and below it fewer bits are kept: there the neighbour is chosen one by one.
    """
    single, whole, odd = bits.view(np.float32), wide.view(np.uint64), raw.view(np.float64)
    for i in range(count):  # any of the 29 bits that float32 has no room for sets the last bit that stays
        raw[i] = (whole[i] | ((whole[i] & _LOST) + _LOST)) & ~_LOST
    for i in range(count):
        single[i] = odd[i]
    lowest = _INFINITY
    for i in range(count):
        lowest = min(lowest, bits[i] & _INFINITY)
    if lowest < _SMALL:
        for i in range(count):
            if bits[i] & _INFINITY < _SMALL:
                single[i] = wide[i]
                back = np.float64(single[i])
                if wide[i] != back and bits[i] & _U1 == 0:
                    bits[i] = bits[i] + _U1 if abs(wide[i]) > abs(back) else bits[i] - _U1


@_kernel
def _half_bits(bits, count, halves):
    """Round float32 to float16's bits, to nearest even; return whether all are finite."""
    highest, single = _U0, bits.view(np.float32)
    for i in range(count):
        value = bits[i] & np.uint32(0x7FFFFFFF)
        normal = (value + np.uint32(0xFFF) + ((value >> np.uint32(13)) & _U1)) >> np.uint32(13)
        rebiased = min(np.uint32(normal - np.uint32(112 << 10)), np.uint32(0x7C00))
        # below 2^-14 float16 is a grid of 2^-24, which is the unit in the last place of float32 from 0.5 to 1
        on_grid = np.float32(abs(single[i]) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
        half = rebiased if value >= np.uint32(0x38800000) else np.uint32(on_grid)
        highest = max(highest, half)
        halves[i] = half | ((bits[i] >> np.uint32(16)) & np.uint32(0x8000))
    return highest < 0x7C00


@_kernel
def _brain_bits(bits, count, halves):
    """Round float32 to bfloat16's bits, to nearest even; return whether all are finite."""
    single = bits.view(np.float32)
    for i in range(count):
        bits[i] = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & _U1)) & np.uint32(0xFFFF0000)
    for i in range(count):
        halves[i] = bits[i] >> np.uint32(16)
    return _poison(single, count) == 0


@_kernel
def from_wide(wide, count, row, code, start, bits, raw):
    """Round float64 once into a row of bytes; return whether all values, before and after, are finite."""
    finite = _poison(wide, count) == 0
    if code == _F64:
        doubles = row.view(np.float64)[start : start + count]
        for i in range(count):
            doubles[i] = wide[i]
        return finite
    if code == _F32:
        singles = row.view(np.float32)[start : start + count]
        for i in range(count):
            singles[i] = wide[i]
        return finite & (_poison(singles, count) == 0)
    halves = row.view(np.uint16)[start : start + count]
    _to_odd(wide, count, bits, raw)
    if code == _F16:
        return finite & _half_bits(bits, count, halves)
    return finite & _brain_bits(bits, count, halves)


@_kernel
def linear(rows, codes, plus, minus, coefficients, count, out, out_code):
    """Write ``round(base + sum c_i (plus_i - minus_i))`` and return whether all of it is finite.

    Where the sum is zero the base's bits stay. Two terms commute; three or more are added in the order of their values,
    element by element, so that the order of the operands never changes a bit.

    :param rows: uint8, inputs x bytes: elements of each input; row 0 is the base.
    :param codes: int64, dtype of each row, as in ``DTYPE_CODES``.
    :param plus: int64, row of each term.
    :param minus: int64, row that is subtracted first, or -1.
    :param coefficients: float64, one a term.
    :param count: Number of elements.
    :param out: uint8, bytes of the result.
    :param out_code: Its dtype.
    """
    terms = len(coefficients)
    wide, other = np.empty(_BLOCK), np.empty(_BLOCK)
    bits, raw = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64)
    parts = np.empty((terms, _BLOCK))
    finite = True
    for start in range(0, count, _BLOCK):
        n = min(_BLOCK, count - start)
        to_wide(rows[0], codes[0], start, n, bits, wide)
        for t in range(terms):
            part, c = parts[t], coefficients[t]
            to_wide(rows[plus[t]], codes[plus[t]], start, n, bits, part)
            if minus[t] < 0:
                for i in range(n):
                    part[i] = c * part[i]
            elif minus[t] == 0:
                for i in range(n):
                    part[i] = c * (part[i] - wide[i])
            else:
                to_wide(rows[minus[t]], codes[minus[t]], start, n, bits, other)
                for i in range(n):
                    part[i] = c * (part[i] - other[i])
        if terms > 2:
            finite &= _sort(parts, terms, n, other)
        if terms == 0:
            finite &= from_wide(wide, n, out, out_code, start, bits, raw)
            continue
        total = parts[0]
        for t in range(1, terms):
            part = parts[t]
            for i in range(n):
                total[i] = total[i] + part[i]
        _add_unless_zero(wide, total, n, other)
        finite &= from_wide(other, n, out, out_code, start, bits, raw)
    return finite


@_kernel
def _sort(parts, terms, count, spare):
    """Sort each column of ``parts`` upwards, by exchanges of neighbouring rows; return whether all are finite."""
    finite = True
    for t in range(terms):
        finite &= _poison(parts[t], count) == 0
    for end in range(terms - 1, 0, -1):
        for t in range(end):
            low, high = parts[t], parts[t + 1]
            for i in range(count):
                spare[i] = min(low[i], high[i])
            for i in range(count):
                high[i] = max(low[i], high[i])
            for i in range(count):
                low[i] = spare[i]
    return finite


@_kernel
def difference(base_row, base_code, tuned_row, tuned_code, count, out, out_code):
    """Write the delta ``round(tuned - base)`` and compare what ``base + delta`` gives back with ``tuned``.

    :param base_row: uint8, elements of the base.
    :param base_code: Their dtype, as in ``DTYPE_CODES``.
    :param tuned_row: uint8, elements of the fine-tune.
    :param tuned_code: Their dtype.
    :param count: Number of elements.
    :param out: uint8, bytes of the delta.
    :param out_code: Its dtype.
    :returns: Whether all is finite, elements not given back to the bit, deltas that are not zero, sum of their squares.
    """
    base, tuned, wide = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    bits, raw = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64)
    again = np.empty(_BLOCK * 8, np.uint8)
    size = 8 if tuned_code == _F64 else 4 if tuned_code == _F32 else 2
    finite, inexact, moved, squares = True, 0, 0, 0.0
    for start in range(0, count, _BLOCK):
        n = min(_BLOCK, count - start)
        to_wide(base_row, base_code, start, n, bits, base)
        to_wide(tuned_row, tuned_code, start, n, bits, tuned)
        for i in range(n):
            tuned[i] = tuned[i] - base[i]
        finite &= from_wide(tuned, n, out, out_code, start, bits, raw)
        to_wide(out, out_code, start, n, bits, tuned)
        squares += _squares(tuned, n)
        for i in range(n):
            moved += tuned[i] != 0
        _add_unless_zero(base, tuned, n, wide)
        from_wide(wide, n, again, tuned_code, 0, bits, raw)
        inexact += _unequal(again, tuned_row, start, n, size)
    return finite, inexact, moved, squares


@_kernel
def _unequal(first, second, start, count, size):
    """Count elements of ``size`` bytes whose bits differ; ``second`` begins at element ``start``."""
    found = 0
    if size == 2:
        a16, b16 = first.view(np.uint16), second.view(np.uint16)[start : start + count]
        for i in range(count):
            found += a16[i] != b16[i]
    elif size == 4:
        a32, b32 = first.view(np.uint32), second.view(np.uint32)[start : start + count]
        for i in range(count):
            found += a32[i] != b32[i]
    else:
        a64, b64 = first.view(np.uint64), second.view(np.uint64)[start : start + count]
        for i in range(count):
            found += a64[i] != b64[i]
    return found


@_kernel
def low_rank(left, right, scale, start, stop, out):
    """Write elements ``start`` to ``stop`` (row-major) of ``scale * left @ right``.

    Every element is summed over the rank in one order, whatever the chunk.

    :param left: float64, rows x rank.
    :param right: float64, rank x columns.
    :param scale: A factor.
    :param start: First element.
    :param stop: Element after the last.
    :param out: float64, at least ``stop - start`` long.
    """
    rank, columns = right.shape
    position = start
    while position < stop:
        row, first = position // columns, position % columns
        n = min(columns - first, stop - position)
        part = out[position - start : position - start + n]
        part[:] = 0.0
        for k in range(rank):
            factor, values = left[row, k], right[k, first : first + n]
            for i in range(n):
                part[i] += factor * values[i]
        for i in range(n):
            part[i] *= scale
        position += n
