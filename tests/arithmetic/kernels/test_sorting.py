"""Columns are sorted in place of a few rows, whatever their number."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic.calculator import Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.sorting import sort_columns
from taskarith.arithmetic.torch import TorchCalculator
from taskarith.merging import sums


@given(rows=st.integers(1, 9), count=st.integers(1, BLOCK), digits=st.sampled_from([0, 12]), seed=st.integers(0, 99))
def test_columns_are_sorted_and_no_other_row_is_touched(rows, count, digits, seed):
    memory = np.random.default_rng(seed).standard_normal((rows + 3, count)).round(digits)
    before = memory.copy()
    there = np.array([row.ctypes.data for row in memory[:-1]])
    sort_columns(there, rows, count)
    numbers = [(address - memory.ctypes.data) // memory.strides[0] for address in there]
    assert sorted(numbers) == list(range(rows + 2))
    assert np.array_equal(memory[numbers[:rows]], np.sort(before[:rows], axis=0))
    assert np.array_equal(memory[-1], before[-1])


def test_more_terms_than_a_block_has_elements():
    terms, generator = BLOCK + 90, np.random.default_rng(0)
    values, found = generator.standard_normal((terms + 1, 5)).astype(np.float32), []
    recipe = Recipe(("F32",) * (terms + 1), tuple(Term(0.5, number) for number in range(1, terms + 1)), "F32")
    for calculator in (CpuCalculator(5), TorchCalculator(5)):
        calculator.begin(recipe)
        for number, row in enumerate(values):
            calculator.room(number, 5)[:] = row.tobytes()
        found.append(bytes(calculator.linear(0, 5)[0]))
    assert found[0] == found[1]


def test_more_parts_than_a_block_has_elements():
    parts = list(np.random.default_rng(0).standard_normal((BLOCK + 90, 5)))
    assert np.array_equal(sums.merged_sum(parts, np.empty(5)), sums.ordered_sum(parts))
