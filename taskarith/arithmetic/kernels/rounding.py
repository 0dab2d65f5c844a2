"""Kernels that convert and round: any float dtype to wide numbers, and these to a dtype, rounded once.

Every inner loop is of one kind, so that the compiler vectorises it. No loop chooses between a new value and the one
that its place already has: that would compile to a conditional store, element by element. Memory is known by its
address, and seen as an array of the width that its dtype has.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from taskarith.arithmetic.kernels.layout import DTYPE_CODES

__all__ = [
    "BF16",
    "F16",
    "F32",
    "F64",
    "array",
    "bf16_to_f32",
    "f16_to_f32",
    "f32_to_bf16",
    "finish",
    "kernel",
    "poison",
    "recipe_at",
    "scaled",
    "squares",
    "widened",
    "width",
    "with_sign_of_zero",
]

F64, F32, F16, BF16 = (DTYPE_CODES[dtype] for dtype in ("F64", "F32", "F16", "BF16"))
_0, _1, _13, _16 = np.uint32(0), np.uint32(1), np.uint32(13), np.uint32(16)
_MAGNITUDE, _INFINITY, _SMALL = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x01000000)
_LOST = np.uint64((1 << 29) - 1)
"""The bits of a float64's fraction that a float32 has no room for."""

kernel = njit(nogil=True, error_model="numpy")


@intrinsic
def _pointer(typing, address):
    del typing
    return types.voidptr(address), lambda context, builder, _, given: builder.inttoptr(
        given[0], context.get_value_type(types.voidptr)
    )


@kernel
def array(address, count, dtype):
    """Return the memory at an address as a flat array."""
    return carray(_pointer(np.uintp(address)), count, dtype)  # ty: ignore[missing-argument]


@kernel
def recipe_at(address):
    """Return what is calculated, from the address of seven int64.

    :param address: How many inputs there are; how many terms; the addresses of int64: where the elements of each input
        are (input 0 is the base), the dtype of each, the input of each term, the input that is subtracted first, or -1;
        the address of float64: the coefficient of each term.
    """
    parts = array(address, 7, np.int64)
    inputs, terms = parts[0], parts[1]
    where, codes = array(parts[2], inputs, np.int64), array(parts[3], inputs, np.int64)
    plus, minus = array(parts[4], terms, np.int64), array(parts[5], terms, np.int64)
    return where, codes, plus, minus, array(parts[6], terms, np.float64)


@kernel
def width(code):
    """Return the bytes of an element."""
    return 8 if code == F64 else 4 if code == F32 else 2


@kernel
def bf16_to_f32(half):
    """Widen a bfloat16 to float32."""
    return np.uint32(np.uint32(half) << _16).view(np.float32)


@kernel
def f16_to_f32(half):
    """Shift float16's fields to the places of float32's, then correct the bias of the exponent by a multiplication."""
    bits = np.uint32(np.uint32(half & 0x7FFF) << _13)
    value = np.float32(bits.view(np.float32) * np.float32(2.0**112)).view(np.uint32)
    special = _INFINITY if value >= np.uint32(0x47800000) else _0
    sign = np.uint32(np.uint32(half & 0x8000) << _16)
    return np.uint32(value | special | sign).view(np.float32)


@kernel
def widened(address, code, count, out):
    """Write the elements at an address in the precision of ``out``, which is float32 or float64, and holds them."""
    if code == F64:
        wide = array(address, count, np.float64)
        for i in range(count):
            out[i] = wide[i]
    elif code == F32:
        single = array(address, count, np.float32)
        for i in range(count):
            out[i] = single[i]
    elif code == F16:
        half = array(address, count, np.uint16)
        for i in range(count):
            out[i] = f16_to_f32(half[i])
    else:
        half = array(address, count, np.uint16)
        for i in range(count):
            out[i] = bf16_to_f32(half[i])


@kernel
def scaled(address, code, count, origin, factor, out):
    """Write ``factor * (value - origin)``, in the precision of ``out``, for the elements at an address."""
    if code == F64:
        wide = array(address, count, np.float64)
        for i in range(count):
            out[i] = factor * (wide[i] - origin[i])
    elif code == F32:
        single = array(address, count, np.float32)
        for i in range(count):
            out[i] = factor * (single[i] - origin[i])
    elif code == F16:
        half = array(address, count, np.uint16)
        for i in range(count):
            out[i] = factor * (f16_to_f32(half[i]) - origin[i])
    else:
        half = array(address, count, np.uint16)
        for i in range(count):
            out[i] = factor * (bf16_to_f32(half[i]) - origin[i])


@kernel
def with_sign_of_zero(base, total):
    """Return ``base + total``, and ``base`` with its sign of zero where nothing is added."""
    both = base + total
    return base if total == 0 else both


@kernel
def finish(base, total, count, address, code, spare):
    """Round ``base + total`` once, to the elements at an address; return whether all of it is finite.

    ``spare`` is the address of a buffer of float32.
    """
    if code == F64:
        wide = array(address, count, np.float64)
        for i in range(count):
            wide[i] = with_sign_of_zero(base[i], total[i])
        return poison(wide, count) == 0
    if code == F32:
        narrow = array(address, count, np.float32)
        for i in range(count):
            narrow[i] = with_sign_of_zero(base[i], total[i])
        return poison(narrow, count) == 0
    half = array(address, count, np.uint16)
    lowest, highest = _INFINITY, _0
    if code == BF16:
        for i in range(count):
            bits = _single_bits(_odd(base[i] + total[i]))
            lowest, highest = min(lowest, np.uint32(bits & _MAGNITUDE)), max(highest, np.uint32(bits & _MAGNITUDE))
            half[i] = f32_to_bf16(bits)
    else:
        bits, single = array(spare, count, np.uint32), array(spare, count, np.float32)
        for i in range(count):
            bits[i] = _single_bits(_odd(base[i] + total[i]))
        for i in range(count):
            half[i] = _f32_to_f16(bits[i], single[i])
        for i in range(count):
            lowest, highest = min(lowest, bits[i] & _MAGNITUDE), max(highest, bits[i] & _MAGNITUDE)
    if lowest < _SMALL:  # so are zeros, whose sign is looked at there
        _round_small(base, total, count, half, code)
    if code == F16:
        return highest < np.uint32(0x477FF000)  # 65520, midway between float16's largest number and the next one
    return highest < np.uint32(0x7F7F8000)  # midway between bfloat16's largest number and the next one


@kernel
def _odd(value):
    """Round float64 to the bits that float32 has room for, to odd: any bit that is lost sets the last one that stays.

    Rounding once more, to 16 bits, is then right, because it sees on which side of a midpoint the value was (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Transactions on Computers 57 (4), 2008).
    """
    whole = np.float64(value).view(np.uint64)
    return np.uint64((whole | ((whole & _LOST) + _LOST)) & ~_LOST)


@kernel
def _single_bits(whole):
    """Convert the bits of a float64 to those of a float32."""
    return np.float32(np.uint64(whole).view(np.float64)).view(np.uint32)


@kernel
def _round_small(base, total, count, half, code):
    """Round again where float32 has fewer bits, or is about to: near its least normal number, and below."""
    for i in range(count):
        value = np.float64(with_sign_of_zero(base[i], total[i]))
        single = np.float32(value)
        bits, back = single.view(np.uint32), np.float64(single)
        if bits & _MAGNITUDE < _SMALL:
            if value != back and bits & _1 == 0:
                bits = np.uint32(bits + _1 if abs(value) > abs(back) else bits - _1)
            half[i] = _f32_to_f16(bits, np.uint32(bits).view(np.float32)) if code == F16 else f32_to_bf16(bits)


@kernel
def f32_to_bf16(bits):
    """Round float32's bits to bfloat16's, to nearest even."""
    return np.uint32(np.uint32(bits + np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> _16) & _1)) >> _16)


@kernel
def _f32_to_f16(bits, single):
    """Round a float32 to float16's bits, to nearest even."""
    magnitude = bits & _MAGNITUDE
    normal = np.uint32(np.uint32(magnitude + np.uint32(0xFFF) + ((magnitude >> _13) & _1)) >> _13)
    rebiased = min(np.uint32(normal - np.uint32(112 << 10)), np.uint32(0x7C00))
    # below 2^-14 float16 is a grid of 2^-24, which is the unit in the last place of float32 from 0.5 to 1
    on_grid = np.uint32(np.float32(abs(single) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000))
    half = rebiased if magnitude >= np.uint32(0x38800000) else on_grid
    return half | ((bits >> _16) & np.uint32(0x8000))


@njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def poison(values, count):
    """Return 0 if all values are finite, else NaN."""
    total = values[0] * 0
    for i in range(1, count):
        total += values[i] * 0
    return total


@njit(nogil=True, error_model="numpy", fastmath={"reassoc"})
def squares(values, count):
    """Return the sum of squares, in float64."""
    total = 0.0
    for i in range(count):
        total += np.float64(values[i]) * np.float64(values[i])
    return total
