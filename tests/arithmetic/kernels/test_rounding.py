"""Rounding, compiled and by torch: once, to nearest even, whatever the number."""

from __future__ import annotations

import oracle
import pytest
import torch
from calculating import CHUNK, NARROW, calculators, linear, rounded, same
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import Term

finite = st.floats(allow_nan=False, allow_infinity=False)
# midpoints of bfloat16 and float16, and values a hair off them, where rounding twice goes wrong
near_midpoints = st.builds(
    lambda mantissa, bits, exponent, nudge: (mantissa + 0.5 + nudge) * 2.0 ** (exponent - bits),
    st.integers(128, 2048),
    st.sampled_from([7, 10]),
    st.integers(-140, 120),
    st.sampled_from([0.0, 2.0**-40, -(2.0**-40), 2.0**-20, -(2.0**-20)]),
)
# around the least normal numbers of the narrow formats, and below
tiny_values = st.builds(lambda fraction, exponent: fraction * 2.0**exponent, st.floats(-4, 4), st.integers(-152, -120))


@calculators
@given(values=st.lists(finite | near_midpoints | tiny_values, min_size=1, max_size=50), dtype=st.sampled_from(NARROW))
def test_rounding_equals_the_oracle(calculator, values, dtype):
    wide = torch.tensor(values, dtype=torch.float64)
    expected = torch.from_numpy(oracle.round_once(wide.numpy(), dtype))
    found, is_finite = rounded(calculator, wide, dtype)
    assert same(found.to(torch.float64), expected)
    assert is_finite == bool(expected.isfinite().all())


@calculators
def test_rounding_happens_once_where_torch_rounds_twice(calculator):
    # 1 + 2^-8 is the midpoint between two bfloat16; the tail of 2^-40 is lost on the way through float32
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert rounded(calculator, value, torch.bfloat16)[0].item() == 1 + 2.0**-7


@calculators
@pytest.mark.parametrize(("dtype", "infinity"), [(torch.bfloat16, 0x7F80), (torch.float16, 0x7C00)])
def test_every_16_bit_number_and_every_midpoint(calculator, dtype, infinity):
    patterns = torch.arange(0, infinity, dtype=torch.int32).to(torch.int16).view(dtype)
    for part in patterns.split(CHUNK):
        values = part.to(torch.float64)
        wide, is_finite = linear(calculator, [part], [], torch.float64)
        assert same(wide, values)
        assert is_finite
        for sign in (1.0, -1.0):
            middle = (values[:-1] + values[1:]) / 2
            even = torch.where(part[:-1].view(torch.int16) % 2 == 0, values[:-1], values[1:])
            for between, expected in (
                (values, values),
                (middle, even),
                (torch.nextafter(middle, values[1:]), values[1:]),
                (torch.nextafter(middle, values[:-1]), values[:-1]),
            ):
                assert same(rounded(calculator, sign * between, dtype)[0].to(torch.float64), sign * expected)


@calculators
@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
def test_what_is_not_finite_is_found_and_zero_keeps_its_sign(calculator, dtype):
    for bad in (float("nan"), float("inf"), -float("inf"), *([1e300, -1e300] if dtype != torch.float64 else [])):
        for place in (0, 1500, 2999):
            values = torch.zeros(3000, dtype=torch.float64)
            values[place] = bad
            assert not rounded(calculator, values, dtype)[1]
    found, is_finite = rounded(calculator, torch.tensor([-0.0, 0.0, 1.0], dtype=torch.float64), dtype)
    assert is_finite
    assert [str(value) for value in found.tolist()] == ["-0.0", "0.0", "1.0"]


@calculators
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("bits", [0x7FFF, 0xFFFF, 0x7FC0, 0x7F80, 0xFF80])
def test_every_kind_of_stored_nan_and_infinity_is_found(calculator, bits, dtype):
    base = torch.full((1,), bits, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    for count in (0, 1, 3):
        terms = [Term(0.5, 1)] * count
        assert not linear(calculator, [base, torch.ones(1)], terms, dtype)[1]
        assert not linear(calculator, [torch.ones(1), base], [Term(0.5, 1), *terms[1:]], dtype)[1]
