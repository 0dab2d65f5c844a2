"""What all operators have in common: no order of the operands changes a bit, and what a setting says of its tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import BETWEEN_TWO, DENSE, merge, method

from taskarith.merging.methods import LINEAR
from taskarith.merging.operator import Setting


@settings(max_examples=50)
@given(
    name=st.sampled_from(DENSE),
    order=st.permutations(range(3)),
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(12,), (4, 6), (2, 3, 4)]),
    alpha=st.sampled_from([1.0, -0.7]),
)
def test_the_order_of_the_operands_changes_no_bit(name, order, seed, shape, alpha):
    generator = np.random.default_rng(seed)
    count = 2 if name in BETWEEN_TWO else 3
    deltas = [np.round(generator.standard_normal(shape), 1) for _ in range(count)]
    weights = list(generator.uniform(0.1, 2, count))
    base = np.round(generator.standard_normal(shape), 1).ravel()
    order = [index for index in order if index < count]
    how = method(name, 0.5)
    first = merge(how, deltas, weights, alpha, shape, base, ["t"] * count)
    again = merge(how, [deltas[i] for i in order], [weights[i] for i in order], alpha, shape, base, ["t"] * count)
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    ("shape", "elements", "columns"), [((), 1, 1), ((5,), 5, 5), ((2, 3, 4), 24, 4), ((3, 0), 0, 0)]
)
def test_a_setting_knows_its_elements_and_counts_the_operands_that_take_part(shape, elements, columns):
    setting = Setting(shape, ("a", "b"), (0.5, -1.0), (0.0, 0.25), 1.0, LINEAR)
    assert (setting.elements, setting.columns) == (elements, columns)
    assert setting.count == 3  # an operand that does not move this tensor counts, one of coefficient 0 does not
