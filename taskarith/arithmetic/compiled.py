"""The arithmetic of one chunk on the CPU, compiled by numba: float64 in registers and cache, rounded once.

Same bits as ``arithmetic.tensors``, which does the same with torch. Work goes block by block through buffers that stay
in the core's first cache; every inner loop is of one kind, so that the compiler vectorises it. No loop chooses between
a new value and the one that its place already has: that would compile to a conditional store, element by element.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["DTYPE_CODES", "difference", "linear", "low_rank"]

DTYPE_CODES = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3}
"""How the kernels call safetensors' float dtypes."""

_BLOCK = 2048
_F64, _F32, _F16 = DTYPE_CODES["F64"], DTYPE_CODES["F32"], DTYPE_CODES["F16"]
_0, _1, _13, _16 = np.uint32(0), np.uint32(1), np.uint32(13), np.uint32(16)
_MAGNITUDE, _INFINITY, _SMALL = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x01000000)
_LOST = np.uint64((1 << 29) - 1)
"""The bits of a float64's fraction that a float32 has no room for."""

_kernel = njit(nogil=True, cache=True, error_model="numpy")


@_kernel
def _wide_from_brain(half):
    return np.float64(np.uint32(np.uint32(half) << _16).view(np.float32))


@_kernel
def _wide_from_half(half):
    """Shift float16's fields to the places of float32's, then correct the bias of the exponent by a multiplication."""
    bits = np.uint32(np.uint32(half & 0x7FFF) << _13)
    value = np.float32(bits.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    special = _INFINITY if value >= np.uint32(0x47800000) else _0
    sign = np.uint32(np.uint32(half & 0x8000) << _16)
    return np.float64(np.uint32(value | special | sign).view(np.float32))


@_kernel
def _scaled(row, code, start, count, origin, factor, out):
    """Write ``factor * (value - origin)`` in float64 for elements of a row of bytes."""
    if code == _F64:
        doubles = row.view(np.float64)[start : start + count]
        for i in range(count):
            out[i] = factor * (doubles[i] - origin[i])
    elif code == _F32:
        singles = row.view(np.float32)[start : start + count]
        for i in range(count):
            out[i] = factor * (np.float64(singles[i]) - origin[i])
    elif code == _F16:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            out[i] = factor * (_wide_from_half(halves[i]) - origin[i])
    else:
        halves = row.view(np.uint16)[start : start + count]
        for i in range(count):
            out[i] = factor * (_wide_from_brain(halves[i]) - origin[i])


@_kernel
def _sum(base, x, y):
    """Return ``base + (x + y)``, and ``base`` with its sign of zero where nothing is added."""
    total = x + y
    both = base + total
    return base if total == 0 else both


@_kernel
def _finish(base, x, y, count, row, code, start, bits, raw):
    """Round ``base + (x + y)`` once into a row of bytes; return whether all of it is finite."""
    single = bits.view(np.float32)
    if code == _F64:
        doubles = row.view(np.float64)[start : start + count]
        for i in range(count):
            doubles[i] = _sum(base[i], x[i], y[i])
        return _poison(doubles, count) == 0
    if code == _F32:
        singles = row.view(np.float32)[start : start + count]
        for i in range(count):
            singles[i] = _sum(base[i], x[i], y[i])
        return _poison(singles, count) == 0
    odd, halves = raw.view(np.float64), row.view(np.uint16)[start : start + count]
    # To float32 rounded to odd: any bit that is lost sets the last one that stays. The second rounding, to 16 bits, is
    # then right, because it sees on which side of a midpoint the value was (Boldo and Melquiond, "Emulation of FMA and
    # correctly rounded sums", IEEE Transactions on Computers 57 (4), 2008).
    for i in range(count):
        whole = np.float64(_sum(base[i], x[i], y[i])).view(np.uint64)
        raw[i] = (whole | ((whole & _LOST) + _LOST)) & ~_LOST
    for i in range(count):
        single[i] = odd[i]
    lowest, highest = _narrow(bits, count, halves, code)
    if lowest < _SMALL:
        _round_small(base, x, y, count, bits)
        _narrow(bits, count, halves, code)
    if code == _F16:
        return highest < np.uint32(0x477FF000)  # 65520, midway between float16's largest number and the next one
    return highest < np.uint32(0x7F7F8000)  # midway between bfloat16's largest number and the next one


@_kernel
def _narrow(bits, count, halves, code):
    """Round float32 to 16 bits, to nearest even; return the least and the greatest magnitude, as float32's bits."""
    lowest, highest = _INFINITY, _0
    if code == _F16:
        single = bits.view(np.float32)
        for i in range(count):
            halves[i] = _half_bits(bits[i], single[i])
        for i in range(count):
            magnitude = bits[i] & _MAGNITUDE
            lowest, highest = min(lowest, magnitude), max(highest, magnitude)
    else:
        for i in range(count):
            value = bits[i]
            magnitude = value & _MAGNITUDE
            lowest, highest = min(lowest, magnitude), max(highest, magnitude)
            halves[i] = np.uint32(value + np.uint32(0x7FFF) + ((value >> _16) & _1)) >> _16
    return lowest, highest


@_kernel
def _round_small(base, x, y, count, bits):
    """Round to odd where float32 is about to have fewer bits: near its least normal number, and below."""
    single = bits.view(np.float32)
    for i in range(count):
        if bits[i] & _MAGNITUDE < _SMALL:
            value = _sum(base[i], x[i], y[i])
            single[i] = value
            back = np.float64(single[i])
            if value != back and bits[i] & _1 == 0:
                bits[i] = bits[i] + _1 if abs(value) > abs(back) else bits[i] - _1


@_kernel
def _half_bits(bits, single):
    """Round a float32 to float16's bits, to nearest even."""
    magnitude = bits & _MAGNITUDE
    normal = np.uint32(np.uint32(magnitude + np.uint32(0xFFF) + ((magnitude >> _13) & _1)) >> _13)
    rebiased = min(np.uint32(normal - np.uint32(112 << 10)), np.uint32(0x7C00))
    # below 2^-14 float16 is a grid of 2^-24, which is the unit in the last place of float32 from 0.5 to 1
    on_grid = np.uint32(np.float32(abs(single) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000))
    half = rebiased if magnitude >= np.uint32(0x38800000) else on_grid
    return half | ((bits >> _16) & np.uint32(0x8000))


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
    parts, wide, other, zero = np.zeros((max(terms, 2), _BLOCK)), np.empty(_BLOCK), np.empty(_BLOCK), np.zeros(_BLOCK)
    bits, raw = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64)
    finite = True
    for start in range(0, count, _BLOCK):
        n = min(_BLOCK, count - start)
        _scaled(rows[0], codes[0], start, n, zero, 1.0, wide)
        for t in range(terms):
            origin = wide if minus[t] == 0 else zero
            if minus[t] > 0:
                _scaled(rows[minus[t]], codes[minus[t]], start, n, zero, 1.0, other)
                origin = other
            _scaled(rows[plus[t]], codes[plus[t]], start, n, origin, coefficients[t], parts[t])
        if terms > 2:
            finite &= _sort(parts, terms, n, other)
            for t in range(1, terms - 1):
                for i in range(n):
                    parts[0, i] += parts[t, i]
        finite &= _finish(wide, parts[0], parts[max(terms, 2) - 1], n, out, out_code, start, bits, raw)
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
    wide, delta, zero = np.empty(_BLOCK), np.empty(_BLOCK), np.zeros(_BLOCK)
    bits, raw = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64)
    again = np.empty(_BLOCK * 8, np.uint8)
    size = 8 if tuned_code == _F64 else 4 if tuned_code == _F32 else 2
    finite, inexact, moved, squares = True, 0, 0, 0.0
    for start in range(0, count, _BLOCK):
        n = min(_BLOCK, count - start)
        _scaled(base_row, base_code, start, n, zero, 1.0, wide)
        _scaled(tuned_row, tuned_code, start, n, wide, 1.0, delta)
        finite &= _finish(delta, zero, zero, n, out, out_code, start, bits, raw)
        _scaled(out, out_code, start, n, zero, 1.0, delta)
        squares += _squares(delta, n)
        for i in range(n):
            moved += delta[i] != 0
        _finish(wide, delta, zero, n, again, tuned_code, 0, bits, raw)
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
