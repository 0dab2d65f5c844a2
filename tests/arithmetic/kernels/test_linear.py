"""A share of the way from a bfloat16 base to its fine-tune, compiled and by torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.torch import TorchCalculator

CHUNK = 1 << 17
COMPILED, TORCH = CpuCalculator(CHUNK), TorchCalculator(CHUNK)
HOSTILE = [0, 0x8000, 1, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1]
COEFFICIENTS = [0.7, -0.7, 0.5, -0.5, 0.25, 1 / 3, 0.1, 0.875, 1.5, 2.0, 3.0, 0.3333, 1e-3, 0.0, 1.0, -1.0, 2.0**-40]


def recipe(coefficient):
    return Recipe(("BF16", "BF16"), (Term(coefficient, 1, 0),), "BF16")


def edited(calculator, what, before, after):
    """Return the bits of the result; nothing where they are not finite."""
    calculator.begin(what)
    calculator.room(0, len(before))[:] = before.astype("<u2").tobytes()
    calculator.room(1, len(after))[:] = after.astype("<u2").tobytes()
    data, is_finite = calculator.linear(0, len(before))
    return bytes(data) if is_finite else None


def check(coefficient, before, after):
    what = recipe(coefficient)
    assert edited(COMPILED, what, before, after) == edited(TORCH, what, before, after)


@pytest.mark.parametrize("exponent", [0, 1, 2, 9, 127, 230, 252])
@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_all_fractions_of_a_base_and_all_changes_of_it(coefficient, exponent):
    base, change = (side.ravel() for side in np.meshgrid(np.arange(128), np.arange(-300, 300)))
    before = base + (exponent << 7)
    after = before + change
    flipped = after < 0
    after[flipped] = -after[flipped] | 0x8000
    check(coefficient, before, np.minimum(after, 0x7F7F + flipped * 0x8000))
    check(coefficient, before | 0x8000, np.minimum(after, 0x7F7F + flipped * 0x8000) ^ 0x8000)


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.floats(-4, 4) | st.sampled_from(COEFFICIENTS) | st.integers(-2560, 2560).map(lambda n: n / 640 + 1e-6),
    st.sampled_from([1, 2, 7, 8, 9, 511, 513, 2047, 2049, 4099]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_any_bits(seed, coefficient, count, share):
    generator = np.random.default_rng(seed)
    before = generator.integers(0, 1 << 16, count)
    after = np.clip(before + generator.integers(-70, 70, count), 0, 0xFFFF)
    for side in (before, after):
        odd = generator.random(count) < share
        side[odd] = generator.choice(HOSTILE, int(odd.sum()))
    check(coefficient, before, after)


def test_a_sum_that_overflows_is_told():
    before, after = np.full(3000, 0x7F00), np.full(3000, 0x7F00)
    after[2999] = 0x7F40
    what = recipe(2.0)
    assert edited(COMPILED, what, before, after) is edited(TORCH, what, before, after) is None
