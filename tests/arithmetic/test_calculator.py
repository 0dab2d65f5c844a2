"""Laws and golden values of the arithmetic: both calculators, compiled and torch, against the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import LowRank, Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.encoding import decode
from taskarith.arithmetic.parallel import chunks, new_calculator, usable_cores
from taskarith.arithmetic.torch import TORCH_DTYPES, TorchCalculator

CHUNK = 5000
CALCULATORS = [CpuCalculator(CHUNK), TorchCalculator(CHUNK)]
if torch.cuda.is_available():
    CALCULATORS.append(TorchCalculator(CHUNK, "cuda"))
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
NARROW = [torch.bfloat16, torch.float16, torch.float32]
calculators = pytest.mark.parametrize("calculator", CALCULATORS, ids=lambda one: type(one).__name__)
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


def raw(values):
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def begin(calculator, inputs, terms, dtype):
    calculator.begin(Recipe(tuple(NAMES[one.dtype] for one in inputs), tuple(terms), NAMES[dtype]))
    for index, values in enumerate(inputs):
        calculator.room(index, values.numel())[:] = raw(values)


def tensor(data, dtype):
    return torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


def linear(calculator, inputs, terms, dtype):
    begin(calculator, inputs, terms, dtype)
    data, is_finite = calculator.linear(0, inputs[0].numel())
    return tensor(data, dtype), is_finite


def same(first, second):
    return raw(first) == raw(second)


def rounded(calculator, values, dtype):
    return linear(calculator, [values], [], dtype)


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


@calculators
@given(data=st.data())
def test_linear_equals_the_oracle_in_any_order(calculator, data):
    size = data.draw(st.integers(1, 20))
    count = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from([torch.float64, *NARROW]))
    stored = data.draw(st.sampled_from([torch.float64, *NARROW]))
    small = st.floats(-4, 4, width=16)
    base = torch.tensor(data.draw(st.lists(small, min_size=size, max_size=size))).to(dtype)
    deltas = [torch.tensor(data.draw(st.lists(small, min_size=size, max_size=size))).to(stored) for _ in range(count)]
    coefficients = data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count))
    expected = oracle.edit(base, deltas, coefficients, dtype)
    terms = [Term(coefficient, index) for index, coefficient in enumerate(coefficients, 1)]
    for order in itertools.permutations(terms):
        assert same(linear(calculator, [base, *deltas], order, dtype)[0], expected)


@calculators
@given(seed=st.integers(0, 2**31 - 1), dtype=st.sampled_from(NARROW), count=st.integers(1, 3))
@settings(max_examples=30)
def test_differences_to_the_base_and_to_another_one(calculator, seed, dtype, count):
    generator = torch.Generator().manual_seed(seed)
    base, other, *tuned = (torch.randn(3000, generator=generator).mul(0.02).to(dtype).clone() for _ in range(2 + count))
    coefficients = [round(0.1 * (index + 1) * (-1) ** index, 1) for index in range(count)]
    for minus, origin in ((0, base), (1, other)):
        deltas = [one.to(torch.float64) - origin.to(torch.float64) for one in tuned]
        terms = [Term(c, index, minus) for index, c in enumerate(coefficients, 2)]
        found, is_finite = linear(calculator, [base, other, *tuned], terms, dtype)
        assert is_finite
        assert same(found, oracle.edit(base, deltas, coefficients, dtype))


@calculators
def test_the_base_keeps_its_bits_where_nothing_is_added(calculator):
    base, ones = torch.tensor([-0.0, 0.0, 1.0]), torch.ones(3)
    for terms in ([], [Term(0.0, 1)], [Term(1.0, 1), Term(-1.0, 1)], [Term(1.0, 1), Term(-2.0, 1), Term(1.0, 1)]):
        assert same(linear(calculator, [base, ones], terms, torch.float32)[0], base)


@calculators
@given(data=st.data())
def test_difference_equals_the_oracle(calculator, data):
    before, after = (data.draw(st.sampled_from(NARROW)) for _ in range(2))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    size = data.draw(st.integers(1, 30))
    numbers = st.floats(-4, 4, width=16) | st.sampled_from([-0.0, 0.0, 2.0**-14, 1.0])
    base, tuned = (torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size))) for _ in range(2))
    base, tuned = base.to(before), tuned.to(after)
    begin(calculator, [base, tuned], [Term(1.0, 1)], dtype)
    found, is_finite, comparison = calculator.difference(0, size)
    exact = tuned.to(torch.float64) - base.to(torch.float64)
    delta = torch.from_numpy(oracle.round_once(exact.numpy(), dtype)).to(dtype)
    again = oracle.edit(base, [delta], [1.0], after)
    assert same(tensor(found, dtype), delta)
    assert is_finite
    assert comparison.inexact == sum(not same(a, b) for a, b in zip(again.split(1), tuned.split(1), strict=True))
    assert comparison.moved == int((delta != 0).sum())
    assert comparison.squares == pytest.approx(float((delta.double() ** 2).sum()), rel=1e-12)


@calculators
def test_low_rank_does_not_depend_on_how_it_is_cut(calculator):
    generator = np.random.default_rng(1)
    left, right = generator.normal(size=(18, 19)), generator.normal(size=(3 * 19, 139))
    base = torch.zeros(18 * 139, dtype=torch.float64)
    begin(calculator, [base], [Term(2.0, LowRank(left, right, 0.5, 3))], torch.float64)
    whole = tensor(calculator.linear(0, 18 * 139)[0], torch.float64)
    for size in (7, 139, 500, 1000):
        pieces = []
        for start, stop in chunks(18 * 139, size):
            calculator.room(0, stop - start)[:] = raw(base[start:stop])
            pieces.append(tensor(calculator.linear(start, stop)[0], torch.float64))
        assert same(torch.cat(pieces), whole)
    parts = zip(np.split(left, 3), np.split(right, 3), strict=True)
    product = np.concatenate([one @ other for one, other in parts]).flatten()
    np.testing.assert_allclose(whole.numpy(), product, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 5, 8, 16, 37])
@pytest.mark.parametrize(("rows", "columns", "blocks"), [(11, 13, 1), (6, 300, 3), (4, 1, 2), (1, 257, 1)])
def test_all_calculators_give_the_same_low_rank_bits(rank, rows, columns, blocks):
    generator = np.random.default_rng(2)
    left, right = generator.normal(size=(rows, rank)), generator.normal(size=(blocks * rank, columns))
    left[0] = -0.0
    factors = LowRank(left, right, 0.3, blocks)
    base = torch.randn(rows * columns, dtype=torch.float64)
    found = [linear(one, [base], [Term(-0.7, factors)], torch.float64)[0] for one in CALCULATORS]
    assert all(same(found[0], other) for other in found[1:])
    parts = zip(np.split(left, blocks), np.split(right, blocks), strict=True)
    product = np.concatenate([one @ other for one, other in parts]).flatten()
    np.testing.assert_allclose(found[0].numpy(), base.numpy() - 0.7 * 0.3 * product, rtol=1e-12, atol=1e-12)


@calculators
def test_a_recipe_with_more_inputs_than_the_last_one(calculator):
    base = torch.arange(4.0)
    for count in (1, 6, 2):
        terms = [Term(1.0, index) for index in range(1, count + 1)]
        found = linear(calculator, [base, *[torch.full((4,), 2.0)] * count], terms, torch.float32)[0]
        assert found.tolist() == [2.0 * count + value for value in range(4)]


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
def test_decode(dtype):
    values = torch.tensor([1.5, -0.0, 3.25, 2.0**-14], dtype=dtype)
    assert same(torch.from_numpy(decode(raw(values), NAMES[dtype])), values.to(torch.float64))


def test_new_calculator(monkeypatch):
    assert isinstance(new_calculator("cpu", 10), CpuCalculator)
    assert isinstance(new_calculator("torch", 10), TorchCalculator)
    monkeypatch.setitem(__import__("sys").modules, "taskarith.arithmetic.cpu", None)  # as if numba were not there
    assert isinstance(new_calculator("cpu", 10), TorchCalculator)


def test_usable_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert usable_cores() >= 1
