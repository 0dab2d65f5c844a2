"""Sums of deltas that no order changes, and the election of signs."""

from __future__ import annotations

import numpy as np
import pytest

from taskarith.merging.sums import elect, ordered_sum


def test_three_parts_are_added_as_linear_does():
    parts = [np.array([1e16]), np.array([1.0]), np.array([-1e16])]
    assert ordered_sum(parts) == (-1e16 + 1.0) + 1e16


@pytest.mark.parametrize(
    ("alpha", "normalize", "merged"),
    [
        # signs of the sums (2, -1, 0): plus, minus, and plus for a sum of zero
        (1.0, None, [3.0, -4.0, 1.0]),
        (1.0, False, [3.0, -4.0, 1.0]),
        (1.0, True, [3.0 / 0.5, -4.0 / 2.0, 1.0 / 0.5]),
        # parts and weights hold alpha already, which changes no election
        (-2.0, None, [-6.0, 8.0, -2.0]),
        (-2.0, True, [-6.0 / 0.5, 8.0 / 2.0, -2.0 / 0.5]),
    ],
)
def test_the_sign_of_the_sum_is_elected_and_alpha_changes_no_election(alpha, normalize, merged):
    weights = [0.5, 2.0]
    parts = [alpha * np.array([3.0, 3.0, 1.0]), alpha * np.array([-1.0, -4.0, -1.0])]
    assert elect(parts, [alpha * weight for weight in weights], alpha, normalize).tolist() == merged


def test_the_mean_is_over_the_parts_that_agree():
    parts = [np.array([2.0, 0.0]), np.array([4.0, 0.0]), np.array([-1.0, 0.0])]
    assert elect(parts, [1.0] * 3, 1.0, None).tolist() == [3.0, 0.0]
    assert elect(parts, [1.0] * 3, 1.0, False).tolist() == [6.0, 0.0]
