"""Laws and golden values of the arithmetic."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.kernels import linear_edit, low_rank_rows, round_to, same_bits

NARROW = [torch.bfloat16, torch.float16, torch.float32]
finite = st.floats(allow_nan=False, allow_infinity=False)
# midpoints of bfloat16 and float16, and values a hair off them, where rounding twice goes wrong
near_midpoints = st.builds(
    lambda mantissa, bits, exponent, nudge: (mantissa + 0.5 + nudge) * 2.0 ** (exponent - bits),
    st.integers(128, 2048),
    st.sampled_from([7, 10]),
    st.integers(-140, 120),
    st.sampled_from([0.0, 2.0**-40, -(2.0**-40), 2.0**-20, -(2.0**-20)]),
)


@given(st.lists(finite | near_midpoints, min_size=1, max_size=50), st.sampled_from(NARROW))
def test_round_to_equals_the_oracle(values, dtype):
    wide = torch.tensor(values, dtype=torch.float64)
    expected = torch.from_numpy(oracle.round_once(wide.numpy(), dtype))
    assert torch.equal(round_to(wide, dtype).to(torch.float64), expected)


def test_round_to_rounds_once_where_torch_rounds_twice():
    # 1 + 2^-8 is the midpoint between two bfloat16; the tail of 2^-40 is lost on the way through float32
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert round_to(value, torch.bfloat16).item() == 1 + 2.0**-7


def test_round_to_every_bfloat16_and_every_midpoint():
    patterns = torch.arange(0, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = patterns.to(torch.float64)
    assert torch.equal(round_to(values, torch.bfloat16), patterns)
    middle = (values[:-1] + values[1:]) / 2
    even = torch.where(torch.arange(len(middle)) % 2 == 0, values[:-1], values[1:])
    assert torch.equal(round_to(middle, torch.bfloat16).to(torch.float64), even)
    assert torch.equal(round_to(torch.nextafter(middle, values[1:]), torch.bfloat16).to(torch.float64), values[1:])
    assert torch.equal(round_to(torch.nextafter(middle, values[:-1]), torch.bfloat16).to(torch.float64), values[:-1])


def test_round_to_keeps_nan_signed_zero_and_overflows_to_infinity():
    values = torch.tensor([float("nan"), -0.0, 1e300, -1e300, float("inf")], dtype=torch.float64)
    for dtype in NARROW:
        rounded = round_to(values, dtype)
        assert rounded[0].isnan()
        assert str(rounded[1].item()) == "-0.0"
        assert rounded[2:].tolist() == [float("inf"), -float("inf"), float("inf")]


@given(st.data())
def test_linear_edit_equals_the_oracle_in_any_order(data):
    size = data.draw(st.integers(1, 20))
    count = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from([torch.float64, *NARROW]))
    small = st.floats(-4, 4, width=32)
    base = torch.tensor(data.draw(st.lists(small, min_size=size, max_size=size))).to(dtype)
    deltas = [torch.tensor(data.draw(st.lists(small, min_size=size, max_size=size))) for _ in range(count)]
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    expected = oracle.edit(base, deltas, coefficients, dtype)
    terms = [c * d.to(torch.float64) for c, d in zip(coefficients, deltas, strict=True)]
    for order in itertools.permutations(terms):
        assert same_bits(linear_edit(base, list(order), dtype), expected).all()


def test_linear_edit_keeps_the_bits_of_the_base_where_nothing_is_added():
    base = torch.tensor([-0.0, 0.0, 1.0])
    zeros = torch.zeros(3, dtype=torch.float64)
    assert same_bits(linear_edit(base, [zeros], torch.float32), base).all()
    assert same_bits(linear_edit(base, [zeros + 1, zeros - 1], torch.float32), base).all()
    assert same_bits(linear_edit(base, [], torch.float32), base).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_base_plus_exact_delta_is_the_finetune(dtype):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(10_000, generator=generator).to(dtype)
    finetuned = (base.float() + 0.3 * torch.randn(10_000, generator=generator)).to(dtype)
    delta = finetuned.to(torch.float64) - base.to(torch.float64)
    assert same_bits(linear_edit(base, [delta], dtype), finetuned).all()


def test_low_rank_rows_do_not_depend_on_how_they_are_cut():
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(37, 8, dtype=torch.float64, generator=generator)
    right = torch.randn(8, 19, dtype=torch.float64, generator=generator)
    whole = low_rank_rows(left, right)
    cut = torch.cat([low_rank_rows(left[start : start + 5], right) for start in range(0, 37, 5)])
    assert torch.equal(whole, cut)
    np.testing.assert_allclose(whole.numpy(), left.numpy() @ right.numpy(), rtol=1e-13, atol=1e-13)


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_minus_a_vector_undoes_plus_a_vector_where_numbers_allow(seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(-1000, 1000, (100,), generator=generator).to(torch.float32)
    delta = torch.randint(-1000, 1000, (100,), generator=generator).to(torch.float64)
    there = linear_edit(base, [delta], torch.float32)
    assert same_bits(linear_edit(there, [-delta], torch.float32), base).all()
