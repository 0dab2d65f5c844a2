"""Merging factors of low rank, compiled and by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import LowRank, Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.torch import TORCH_DTYPES, TorchCalculator

CHUNK = 4096
COMPILED, TORCH = CpuCalculator(CHUNK), TorchCalculator(CHUNK)
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
factors = st.floats(-4, 4) | st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-8, 2.0**-9, 1 + 2.0**-23, 1 + 2.0**-30, 2.0**-70, 2.0**-140, 2.0**60, 1e308]
)
weights = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1 + 2.0**-7, 2.0**-130, 3.0e38, -(2.0**100)])
coefficients = st.floats(-2, 2) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0**19, 2.0**21, 2.0**-99, 1e-200])


def merged(calculator, base, terms, step=None, output="BF16"):
    """Return the bits of ``base + sum of terms``; nothing where they are not finite."""
    calculator.begin(Recipe((NAMES[base.dtype],), tuple(terms), output))
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
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    output=st.sampled_from(["BF16", "F16", "F32"]),
)
def test_any_factors_give_the_same_bits(data, dtype, output):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    base = torch.tensor(data.draw(st.lists(weights, min_size=rows * columns, max_size=rows * columns))).to(dtype)
    count = data.draw(st.integers(1, 3))
    terms = [Term(data.draw(coefficients), product(data, rows, columns)) for _ in range(count)]
    assert merged(COMPILED, base, terms, output=output) == merged(TORCH, base, terms, output=output)


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
    expected = merged(TORCH, base, terms, CHUNK)
    for step in (CHUNK, 1000, 211, 512):
        assert merged(COMPILED, base, terms, step) == expected


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("side", ["left", "right", "base"])
def test_what_is_not_finite_is_told(odd, side):
    generator = np.random.default_rng(4)
    left, right = generator.normal(size=(30, 4)), generator.normal(size=(4, 50))
    base = torch.zeros(1500, dtype=torch.bfloat16)
    if side == "base":  # older torch does not round to infinity where an element is assigned
        base[153] = torch.tensor(odd).to(torch.bfloat16)
    else:
        {"left": left, "right": right}[side][3, 3] = odd
    if side == "left":
        right[3] = 1e9
    terms = [Term(1.0, LowRank(left, right, 1.0))]
    assert merged(COMPILED, base, terms) is merged(TORCH, base, terms) is None
