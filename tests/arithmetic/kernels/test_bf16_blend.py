"""A share of the way to a bfloat16 fine-tune: float32 decides most elements, and no bit shows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels.bf16_blend_limits import reach_of
from taskarith.arithmetic.torch import TorchCalculator

CHUNK = 1 << 17
LIGHT, PRECISE = CpuCalculator(CHUNK), TorchCalculator(CHUNK)
HOSTILE = [0, 0x8000, 1, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1]
COEFFICIENTS = [0.7, -0.7, 0.5, -0.5, 0.25, 1 / 3, 0.1, 0.875, 1.5, 2.0, 3.0, 0.3333, 1e-3, 0.0, 1.0, -1.0, 2.0**-40]


def recipe(coefficient, **changed):
    given = {"dtypes": ("BF16", "BF16"), "terms": (Term(coefficient, 1, 0),), "output": "BF16"}
    return Recipe(**given | changed)


def edited(calculator, what, before, after):
    """Return the bits of the result; nothing where they are not finite."""
    calculator.begin(what)
    calculator.room(0, len(before))[:] = before.astype("<u2").tobytes()
    calculator.room(1, len(after))[:] = after.astype("<u2").tobytes()
    data, is_finite = calculator.linear(0, len(before))
    return bytes(data) if is_finite else None


def check(coefficient, before, after):
    what = recipe(coefficient)
    assert edited(LIGHT, what, before, after) == edited(PRECISE, what, before, after)


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
    assert reach_of(what) > 0
    assert edited(LIGHT, what, before, after) is edited(PRECISE, what, before, after) is None


def test_there_is_no_reach_for_anything_else():
    assert reach_of(recipe(0.7)) > 0.49
    for other in (
        recipe(0.7, dtypes=("BF16", "F32")),
        recipe(0.7, dtypes=("F16", "F16")),
        recipe(0.7, output="F32"),
        recipe(0.7, terms=(Term(0.7, 1),)),
        recipe(0.7, terms=(Term(0.7, 1, 0), Term(0.1, 1, 0))),
        recipe(2.0**-41),
        recipe(9.0),
        recipe(float("inf")),
        recipe(float("nan")),
    ):
        assert reach_of(other) == 0


def test_changes_next_to_a_midpoint_end_the_reach():
    """An odd number of units in the last place times this is a hair above a midpoint, which float32 takes it for."""
    what = recipe(0.5 + 2.0**-40)
    assert reach_of(what) == 0
    before = np.full(60, 0x3F80)
    after = before + np.arange(60)
    careless = CpuCalculator(CHUNK)
    careless.begin(what)
    careless._reach = 0.499
    for row, side in enumerate((before, after)):
        careless.room(row, 60)[:] = side.astype("<u2").tobytes()
    expected = edited(PRECISE, what, before, after)
    assert bytes(careless.linear(0, 60)[0]) != expected == edited(LIGHT, what, before, after)


def test_the_first_such_change_is_the_limit():
    hair = (70.5 + 2.0**-30) / 199  # no smaller multiple of it than the 199th is near a midpoint
    assert reach_of(recipe(hair)) == reach_of(recipe(-hair)) == 198 / 512
