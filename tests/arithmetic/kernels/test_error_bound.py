"""Merging factors into bfloat16: float32 decides most elements, and no bit shows it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import LowRank, Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels.error_bound_limits import slack_of
from taskarith.arithmetic.torch import TORCH_DTYPES, TorchCalculator

CHUNK = 4096
LIGHT, PRECISE = CpuCalculator(CHUNK), TorchCalculator(CHUNK)
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
factors = st.floats(-4, 4) | st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-8, 2.0**-9, 1 + 2.0**-23, 1 + 2.0**-30, 2.0**-70, 2.0**-140, 2.0**60, 1e308]
)
weights = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1 + 2.0**-7, 2.0**-130, 3.0e38, -(2.0**100)])
coefficients = st.floats(-2, 2) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0**19, 2.0**21, 2.0**-99, 1e-200])


def recipe(terms, base=torch.bfloat16, output="BF16"):
    return Recipe((NAMES[base],), tuple(terms), output)


def merged(calculator, base, terms, step=None):
    """Return the bits of ``base + sum of terms`` in bfloat16; nothing where they are not finite."""
    calculator.begin(recipe(terms, base.dtype))
    found, is_finite = b"", True
    for start in range(0, base.numel(), step or base.numel()):
        part = base[start : start + (step or base.numel())]
        calculator.room(0, part.numel())[:] = part.contiguous().view(torch.uint8).numpy().tobytes()
        data, flag = calculator.linear(start, start + part.numel())
        found, is_finite = found + bytes(data), is_finite and flag
    return found if is_finite else None


def product(data, rows, columns, values=factors):
    """Draw factors of any rank and layout whose product has a shape."""
    rank, blocks = (
        data.draw(st.integers(0, 20)),
        data.draw(st.sampled_from([one for one in (1, 2, 3) if rows % one == 0])),
    )
    sides = (rows, rank), (blocks * rank, columns)
    left, right = (
        np.array(data.draw(st.lists(values, min_size=a * b, max_size=a * b)), np.float64).reshape(a, b)
        for a, b in sides
    )
    return LowRank(left, right, data.draw(coefficients), blocks)


@settings(deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_merging_gives_the_bits_of_float64(data, dtype):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    base = torch.tensor(data.draw(st.lists(weights, min_size=rows * columns, max_size=rows * columns))).to(dtype)
    count = data.draw(st.integers(1, 3))
    terms = [Term(data.draw(coefficients), product(data, rows, columns)) for _ in range(count)]
    assert merged(LIGHT, base, terms) == merged(PRECISE, base, terms)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 2.0**-40])
@pytest.mark.parametrize("kind", ["plain", "half zero", "tiny", "zero", "midway"])
def test_large_tensors_whatever_the_base(scale, kind):
    generator = np.random.default_rng(3)
    left, right = generator.normal(size=(37, 16)), generator.normal(size=(16, 211)) * scale
    base = torch.from_numpy(generator.normal(size=37 * 211) * 0.02).bfloat16()
    if kind == "half zero":
        base[generator.random(base.numel()) < 0.5] = -0.0
    if kind in {"tiny", "zero"}:
        base *= 2.0**-115 if kind == "tiny" else 0
    terms = [Term(0.7, LowRank(left, right, 0.25)), Term(-1.0, LowRank(left[:, :3].copy(), right[:3].copy(), 2.0))]
    if kind == "midway":  # half a unit in the last place is added, or a hair more or less
        exponent = torch.frexp(base.double())[1].double().numpy().reshape(37, 211)
        nudge = generator.choice([0, 2.0**-30, -(2.0**-30), 2.0**-45], (37, 211))
        terms = [Term(1.0, LowRank(np.exp2(exponent - 9) * (1 + nudge), np.eye(211), 1.0))]
    expected = merged(PRECISE, base, terms, CHUNK)
    for step in (CHUNK, 1000, 211, 512):
        assert merged(LIGHT, base, terms, step) == expected


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("side", ["left", "right", "base"])
def test_what_is_not_finite_is_told(odd, side):
    generator = np.random.default_rng(4)
    left, right = generator.normal(size=(30, 4)), generator.normal(size=(4, 50))
    base = torch.zeros(1500, dtype=torch.bfloat16)
    {"left": left, "right": right, "base": base.view(30, 50)}[side][3, 3] = odd
    if side == "left":
        right[3] = 1e9
    terms = [Term(1.0, LowRank(left, right, 1.0))]
    assert merged(LIGHT, base, terms) is merged(PRECISE, base, terms) is None


@settings(deadline=None)
@given(data=st.data())
def test_the_error_in_float32_is_less_than_the_slack(data):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    moderate = st.floats(-4, 4) | st.sampled_from([2.0**-100, -(2.0**-80), 1.1 * 2.0**-140, 1e5, 2.0**-50, 2.0**59])
    scales = st.floats(-2, 2) | st.sampled_from([1.1 * 2.0**-99, 2.0**-90])
    terms = [Term(data.draw(scales), product(data, rows, columns, moderate)) for _ in range(2)]
    slack = slack_of(recipe(terms))
    if slack >= 0:
        assert error_in_float32(terms, rows, columns) <= slack


def test_what_underflows_is_in_the_slack():
    factors = LowRank(np.full((1, 1), 2.0**-50 * 1.3), np.full((1, 1), 2.0**59), 1.0)  # 2^-140 has 10 bits in float32
    terms = [Term(2.0**-90 * 1.1, factors)]
    assert 2.0**-95 < error_in_float32(terms, 1, 1) <= slack_of(recipe(terms))


def error_in_float32(terms, rows, columns):
    """Return the largest difference between the sum of products in float32 and in float64."""
    LIGHT.begin(recipe(terms))
    address = LIGHT._multiply_light(0, rows * columns)
    found = np.frombuffer(ctypes.string_at(address, 4 * rows * columns), np.float32).reshape(rows, columns)
    exact = np.zeros((rows, columns))
    for term in terms:
        one = term.plus
        parts = zip(np.split(one.left, one.blocks), np.split(one.right, one.blocks), strict=True)
        exact += term.coefficient * one.scale * np.concatenate([a @ b for a, b in parts])
    return np.abs(found - exact).max()


def test_float32_is_used_for_factors_into_bfloat16_alone():
    sides = np.ones((2, 3)), np.ones((3, 2))
    one = Term(0.5, LowRank(*sides, 2.0))
    # a summand of 3 is rounded 3 + 5 + 1 times; rows and columns have the norm sqrt(3)
    assert slack_of(recipe([one])) == pytest.approx(1.01 * 9 * 3 * 2.0**-24)
    assert slack_of(recipe([one, one])) == pytest.approx(2 * 1.01 * 10 * 3 * 2.0**-24)
    assert slack_of(recipe([Term(0.0, LowRank(*sides, 2.0))])) == pytest.approx(2.0**-100)
    for other in (
        recipe([]),
        recipe([one], torch.float64),
        recipe([one], output="F16"),
        recipe([one], output="F32"),
        Recipe(("BF16", "BF16"), (one, Term(1.0, 1)), "BF16"),
        recipe([Term(1e-40, LowRank(*sides, 1.0))]),
        recipe([Term(1e10, LowRank(*sides, 1.0))]),
        recipe([Term(1.0, LowRank(sides[0] * np.nan, sides[1], 1.0))]),
        recipe([Term(1.0, LowRank(sides[0] * 1e30, sides[1], 1.0))]),
    ):
        assert slack_of(other) == -1.0
