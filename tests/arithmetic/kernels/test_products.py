"""Scalar products that are taken while inputs are read are those of the vectors themselves, to the bit."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels.available import address
from taskarith.arithmetic.kernels.compile import load_kernels
from taskarith.arithmetic.kernels.layout import BLOCK, LANES

TERMS = [(1, 0), (2, 0), (2, 1), (1, None), (0, 0), (2, 2)]
"""What is subtracted from what: the base, another input or nothing; also the base from itself."""


def _delta(wide, plus, minus):
    return wide[plus] - (0.0 if minus is None else wide[minus])


@given(
    count=st.sampled_from([1, LANES - 1, LANES + 1, BLOCK, 3 * BLOCK + 5]),
    first=st.integers(0, 2 * LANES),
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=3),
    absent=st.booleans(),
    adds_base=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_of_what_is_read_are_those_of_the_vectors(count, first, terms, absent, adds_base, seed):
    inputs = np.random.default_rng(seed).standard_normal((3, count)).astype(np.float32)
    calculator = CpuCalculator(count, ("merge",))
    calculator.begin(Recipe(("F32",) * len(inputs), tuple(Term(0.3, *term) for term in terms), "F32"))
    for number, row in enumerate(inputs):
        calculator.room(number, count)[:] = row.tobytes()
    wide = inputs.astype(np.float64)
    rows = [_delta(wide, *term) for term in terms] + [np.zeros(count)] * absent
    rows = [wide[0] + row if adds_base else row for row in rows]
    found = np.zeros((len(rows), len(rows), LANES))
    assert calculator.gram(0, count, first, found, adds_base=adds_base)
    expected = np.zeros_like(found)
    for a, b in zip(*np.tril_indices(len(rows)), strict=True):
        for i, product in enumerate(rows[a] * rows[b]):
            expected[a, b, (first + i) % LANES] += product
    assert found.tobytes() == expected.tobytes()
    if first == 0:
        whole, where = np.zeros_like(found), array("q", [address(row) for row in rows])
        load_kernels("merge").products(where.buffer_info()[0], len(rows), count, whole.ctypes.data)
        assert whole.tobytes() == expected.tobytes()


@pytest.mark.parametrize("adds_base", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("term", TERMS)
def test_what_is_not_finite_is_said(term, value, adds_base):
    for number in range(3):
        calculator = CpuCalculator(3, ("merge",))
        calculator.begin(Recipe(("F32",) * 3, (Term(1.0, *term),), "F32"))
        for row in range(3):
            calculator.room(row, 3)[:] = np.array([1, value if row == number else 2, 3], np.float32).tobytes()
        is_read = number in {*term, *((0,) if adds_base else ())}
        assert calculator.gram(0, 3, 0, np.zeros((1, 1, LANES)), adds_base=adds_base) != is_read
