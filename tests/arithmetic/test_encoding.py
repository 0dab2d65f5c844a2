"""Stored elements as float64 and back."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from calculating import NAMES, NARROW, raw, same

from taskarith.arithmetic.encoding import decode, encode


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
def test_decode(dtype):
    values = torch.tensor([1.5, -0.0, 3.25, 2.0**-14], dtype=dtype)
    assert same(torch.from_numpy(decode(raw(values), NAMES[dtype])), values.to(torch.float64))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E8M0"])
def test_every_number_of_a_narrow_dtype_comes_back(dtype):
    codes = np.arange(256, dtype=np.uint8) if dtype == "F8_E8M0" else np.arange(1 << 16, dtype="<u2")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = decode(codes.tobytes(), dtype)
    again = np.frombuffer(encode(values, dtype), codes.dtype)
    known = ~np.isnan(values)
    assert (again == codes)[known].all()
    assert np.isnan(decode(again.tobytes(), dtype))[~known].all()


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
def test_rounding_is_that_of_the_oracle(dtype):
    generator = np.random.default_rng(0)
    values = generator.normal(size=4000) * np.exp2(generator.integers(-150, 130, 4000))
    values[:6] = [1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, -(1 + 2.0**-11), 65520.0, 3.4e38, -0.0]
    with np.errstate(over="ignore"):
        found = decode(encode(values, NAMES[dtype]), NAMES[dtype])
    assert found.tobytes() == oracle.round_once(values, dtype).tobytes()


def test_scales_that_are_powers_of_two_are_rounded_down():
    assert decode(encode(np.array([1.0, 1.99, 2.0, 0.74, 2.0**-140]), "F8_E8M0"), "F8_E8M0").tolist() == [
        1.0,
        1.0,
        2.0,
        0.5,
        2.0**-127,
    ]
