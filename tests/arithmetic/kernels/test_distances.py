"""Tensors are measured and compared as numpy does it with all their elements in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.kernels.available import address
from taskarith.arithmetic.kernels.compile import load_kernels
from taskarith.arithmetic.kernels.layout import BLOCK, DTYPE_CODES

DTYPES = ("BF16", "F16", "F32", "F64")


def compare(left, dtype, right, other):
    kernels, found, scratch = load_kernels("distances"), np.empty(5), np.empty(2 * BLOCK)
    a, b = np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8)
    codes, count = (DTYPE_CODES[dtype], DTYPE_CODES[other]), len(decode(left, dtype))
    is_finite = kernels.distances(
        a.ctypes.data, codes[0], b.ctypes.data, codes[1], count, address(found), address(scratch)
    )
    return is_finite, found.tolist()


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize(("dtype", "other"), list(itertools.product(DTYPES, repeat=2)))
def test_all_dtypes_are_compared_as_by_numpy(dtype, other, count):
    values = np.random.default_rng(count).standard_normal((2, count))
    values[1, ::3] = values[0, ::3] = np.round(values[0, ::3])  # equal in every dtype
    left, right = encode(values[0], dtype), encode(values[1], other)
    a, b = decode(left, dtype), decode(right, other)
    is_finite, (differing, far, distance, large, size) = compare(left, dtype, right, other)
    assert is_finite
    assert differing == np.count_nonzero(a.view("<u8") != b.view("<u8"))
    assert (far, large) == (np.abs(a - b).max(), np.abs(a).max())
    assert (distance, size) == pytest.approx((np.square(a - b).sum(), np.square(a).sum()), rel=1e-12)


def test_signs_of_zero_differ_without_a_distance():
    left, right = np.array([0.0, -0.0, 1.0]).tobytes(), np.array([-0.0, -0.0, 1.0]).tobytes()
    assert compare(left, "F64", right, "F64") == (1, [1, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("a", "b"), [(np.inf, np.inf), (1.0, -np.inf), (np.nan, 1.0), (1.0, np.nan), (1.7e308, -1.7e308)]
)
@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK])
def test_what_is_not_finite_is_said(a, b, at):
    left, right = np.ones(2 * BLOCK + 1), np.ones(2 * BLOCK + 1)
    left[at], right[at] = a, b
    assert not compare(left.tobytes(), "F64", right.tobytes(), "F64")[0]


def measure(data, dtype):
    kernels, found, scratch, raw = (
        load_kernels("distances"),
        np.empty(3),
        np.empty(BLOCK),
        np.frombuffer(data, np.uint8),
    )
    count = len(decode(data, dtype))
    return kernels.sizes(raw.ctypes.data, DTYPE_CODES[dtype], count, address(found), address(scratch)), found.tolist()


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_are_those_of_numpy(dtype, count):
    values = np.random.default_rng(count).standard_normal(count)
    values[::5], values[1::7] = 0.0, -0.0
    data = encode(values, dtype)
    wide = decode(data, dtype)
    is_finite, (zeros, large, size) = measure(data, dtype)
    assert is_finite
    assert (zeros, large) == (np.count_nonzero(wide == 0), np.abs(wide).max())
    assert size == pytest.approx(np.square(wide).sum(), rel=1e-12)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK])
def test_a_size_that_is_not_finite_is_said(value, at):
    values = np.ones(2 * BLOCK + 1)
    values[at] = value
    assert not measure(values.tobytes(), "F64")[0]
