"""True positive rates at low false positive rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import DataError
from taskarith.evaluation.metrics.low_fpr import needed_nonmembers, tpr_at_fpr, tpr_with_interval

# fmt: off
MEMBERS = [
    19, 0, 0, 33, 0, 18, 17, 5, 25, 29, 39, 7, 36, 2, 5, 23, 34, 35, 29, 1, 16, 32, 21, 7, 27, 3, 27, 0, 14, 11, 37, 29,
    26, 19, 11, 34, 37, 8, 9, 12, 19, 10, 16, 39, 14, 37, 20, 13, 37, 17,
]
NONMEMBERS = [
    18, 0, 27, 17, 23, -11, -8, -10, 9, 4, 27, -3, -6, 21, 0, 17, -1, 9, -9, 14, 24, 15, 23, 19, 10, 25, 7, -7, 10, 13,
    -5, -7, 14, 5, 7, 19, 15, 23, -6, 18, 9, -11, -10, 2, 13, -6, 9, 27, -7, -7, 26, -3, 22, 2, 18, -10, 13, 22, 1, 13,
]


def test_tpr_is_that_of_min_k_plus_plus():
    assert tpr_at_fpr(MEMBERS, NONMEMBERS, 0.05) == 0.34  # by its ``get_metrics``, at 5596c65


@pytest.mark.parametrize(
    ("members", "rate", "found"),
    [
        ([20, 19, 18, 0], 0.05, 0.5),  # one of twenty may be above, and the next one is 18.2
        ([25, 18.2, 18.2, 0], 0.05, 0.25),  # a tie with it is not above it
        ([20, 18, 17.5, 0], 0.1, 0.75),
    ],
)
def test_tpr_by_hand(members, rate, found):
    assert tpr_at_fpr(members, [*range(18), 18.2, 25], rate) == found


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12), st.lists(st.integers(-5, 5), min_size=20, max_size=45))
def test_tpr_is_the_best_threshold_tried_out(members, nonmembers):
    def rate(side, threshold):
        return sum(one >= threshold for one in side) / len(side)

    allowed = [t for t in range(-5, 7) if rate(nonmembers, t) <= 0.05 + 1e-9]
    assert tpr_at_fpr(members, nonmembers, 0.05) == max(rate(members, threshold) for threshold in allowed)
    found = tpr_with_interval(members, nonmembers, 0.05)
    assert (found.low is None) == (len(members) < 2)
    assert found.low is None or 0 <= found.low <= found.value <= found.high <= 1


def test_a_rate_that_the_sample_cannot_tell_is_refused():
    assert [needed_nonmembers(rate) for rate in (0.001, 0.01, 0.05, 0.3)] == [1000, 100, 20, 4]
    with pytest.raises(DataError, match=r"99 nonmembers are too few for a false positive rate of 0.01"):
        tpr_at_fpr([1, 2], range(99), 0.01)
    with pytest.raises(DataError, match="1 is not a false positive rate"):
        tpr_at_fpr([1, 2], range(99), 1)
