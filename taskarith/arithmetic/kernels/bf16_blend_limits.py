"""How far a bfloat16 fine-tune may be from its base for float32 to do: what ``bf16_blend`` has to know."""

from __future__ import annotations

import struct
from functools import lru_cache

from taskarith.arithmetic.calculator import Recipe

__all__ = ["reach_of"]

_LARGEST = 256
"""Changes that are looked at; see ``_reach``."""

_WORTHWHILE = 64
_LEAST, _MOST = 2.0**-40, 8.0
"""Coefficients have to be between these, or zero."""


def reach_of(recipe: Recipe) -> float:
    """Return how large a change of the base may be, in relation to it; 0 where only float64 will do."""
    dtypes, terms = recipe.dtypes, recipe.terms
    if len(terms) != 1 or terms[0].minus != 0 or not isinstance(terms[0].plus, int):
        return 0.0
    is_brain = {recipe.output, dtypes[0], dtypes[terms[0].plus]} == {"BF16"}
    return _reach(abs(terms[0].coefficient)) if is_brain else 0.0


@lru_cache
def _reach(coefficient: float) -> float:
    """Return up to which share of the base a change may be, so that float32 and float64 round to one bfloat16.

    Let u be half a unit in the last place of a base b, so that |b| is an integer times u, from 256 to 510. A change of
    at most half of b leads to a fine-tune of at least 128 u, whose last place is u at least, so that it is k times u, k
    an integer of at most 255. If the coefficient c times it is at most half of b too, the sum is from 128 u to 766 u;
    the midpoints between bfloat16 numbers there, on which rounding hangs, are multiples of u / 2, as b is.

    In float32 the coefficient, the product and the sum are rounded once each, by at most 2^-24 of themselves: together
    by less than 2^-14 u. In float64 it is less than 2^-42 u. So c k may not be within 2^-14 of a multiple of 1/2, or
    both sums have to be exactly b and that: they are if the products are nearer to it than half the distance of two
    neighbours of that sum, which is at least 2^-16 u in float32 and 2^-45 u in float64. Whether c k is so does not
    depend on b; the first k for which it is not ends the reach. Near the least normal number and below it an operation
    of float32 is wrong by 2^-150 at most, which is 2^-16 u.
    """
    if coefficient and not _LEAST <= coefficient <= _MOST:
        return 0.0
    light = _single(coefficient)
    for change in range(1, _LARGEST):
        product = coefficient * change
        nearest = round(2 * product) / 2
        is_exact = abs(product - nearest) <= 2.0**-46 and abs(_single(light * change) - nearest) < 2.0**-17
        if not is_exact and abs(product - nearest) < 1.01 * 2.0**-14:
            break
    else:
        change = _LARGEST
    if change < _WORTHWHILE:
        return 0.0
    return min(0.499 / max(1.0, coefficient), (change - 1) / 2 / _LARGEST)


def _single(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
