"""The best of k continuations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import DataError
from taskarith.evaluation.metrics.sampling import budgets, leak_at_k


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.data())
def test_the_best_of_k_is_the_mean_over_all_subsets(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    subsets = [max(subset) for subset in itertools.combinations(scores, k)]
    assert leak_at_k(scores, k) == pytest.approx(np.mean(subsets))


@pytest.mark.parametrize(
    ("ones", "k", "found"),
    [(3, 4, 0.5087719298245614), (3, 1, 0.15), (0, 8, 0.0), (1, 20, 1.0), (17, 4, 1.0)],
)
def test_leaks_of_yes_and_no_are_those_of_its_code(ones, k, found):
    """``calculate_pass_at_k(20, ones, k)`` of OptimAI-Lab/Leak-k at 701d991."""
    assert leak_at_k([1.0] * ones + [0.0] * (20 - ones), k) == pytest.approx(found)


def test_budgets_are_powers_of_two_and_all():
    assert [budgets(draws) for draws in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]
    with pytest.raises(DataError, match="2 continuations are too few for the best of 3"):
        leak_at_k([0, 1], 3)
