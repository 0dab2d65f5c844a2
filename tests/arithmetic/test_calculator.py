"""Laws of the interface that both calculators have, compiled and torch: against the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
import torch
from calculating import NARROW, begin, calculators, linear, raw, same, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import LowRank, Term
from taskarith.arithmetic.parallel import chunks


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
