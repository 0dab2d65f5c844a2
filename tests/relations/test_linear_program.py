"""The linear programme of theorem 3: golden values, and laws against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import UsageError
from taskarith.relations.linear_program import solve


@pytest.mark.parametrize(
    ("gammas", "threshold", "least"),
    [
        ((-0.2, -0.9), 1.0, 1.9 / 0.14),  # -.2 a - .9 b >= 1 and .04 a + .81 b >= 1 meet at a = -s: .14 s = 1.9
        ((0.792, -0.637), 1.0, (1 + 0.637 / 0.405769) / (0.792 + 0.637 * 0.627264 / 0.405769)),
        ((1.0, 1.0), 1.1, 0.55),
        ((1.0, 0.0), 1.1, 1.1),
        ((0.5,), 1.0, 4.0),  # gamma^2 is the harder sum
        ((1.0, -1.0), 1.0, 1.0),  # a - b >= 1 and a + b >= 1
        ((0.6, 0.8), 1.0, 1.0),  # gammas of a unit vector: the squares sum to 1
    ],
)
def test_golden_values(gammas, threshold, least):
    found = solve(gammas, threshold)
    assert found.least == pytest.approx(least, rel=1e-9)
    assert np.abs(found.lambdas).max() == pytest.approx(least, rel=1e-9)
    assert np.dot(found.lambdas, gammas) >= threshold - 1e-9
    assert np.dot(found.lambdas, np.square(gammas)) >= threshold - 1e-9


def test_the_literal_theorem_rejects_the_papers_best_point():
    gammas, best = np.array([0.792, -0.637]), np.array([1.2, -0.6])
    sums = best @ gammas, best @ gammas**2
    assert sums == pytest.approx((1.3326, 0.5092554), rel=1e-6)  # below 1, above the 0.2 of the figure
    assert solve(gammas, 0.2).least < 1.2 < solve(gammas, 1.1).least


@pytest.mark.parametrize("gammas", [(-0.5, -0.5), (-0.5, 0.0), (-1.0,)])
def test_equal_negative_gammas_have_no_solution(gammas):
    found = solve(gammas, 1.0)
    assert (found.lambdas, found.least) == (None, None)
    assert f"every nonzero gamma is {min(gammas):g}" in found.reason


def test_other_reasons():
    assert "every gamma is 0" in solve((0.0, 0.0), 1.0).reason
    capped = solve((-0.2, -0.9), 1.0, 2.0)
    assert capped.lambdas is None
    assert capped.least == pytest.approx(13.571428571)
    assert "13.57" in capped.reason
    assert "cap" in capped.reason
    assert solve((1.0, 1.0), 1.0, 0.5).lambdas == pytest.approx((0.5, 0.5))  # just within the cap


def test_beta_is_c_over_the_largest_coefficient():
    assert solve((1.0, 0.0), 1.1).beta == pytest.approx(0.1 / 1.1)
    assert solve((1.0, 0.0), 0.2).beta is None


GAMMAS = st.lists(st.integers(-20, 20).map(lambda n: n / 20), min_size=1, max_size=4)


@given(GAMMAS, st.sampled_from([0.2, 1.0, 1.5]))
def test_nothing_random_is_better(gammas, threshold):
    found = solve(gammas, threshold)
    nonzero = {gamma for gamma in gammas if gamma}
    assert (found.lambdas is None) == (not nonzero or (len(nonzero) == 1 and min(nonzero) < 0))
    if found.lambdas is None:
        return
    sums = np.dot(found.lambdas, gammas), np.dot(found.lambdas, np.square(gammas))
    assert min(sums) >= threshold * (1 - 1e-7)
    assert np.abs(found.lambdas).max() == pytest.approx(found.least)
    # duality: the least max |lambda| is t / min over w of sum |w gamma + (1 - w) gamma^2|, which bends at these w
    shares = np.array([0.0, 1.0, *(gamma / (gamma - 1) for gamma in gammas if gamma < 0)])[:, None]
    sizes = np.abs(shares * np.array(gammas) + (1 - shares) * np.square(gammas)).sum(1)
    assert found.least == pytest.approx(threshold / sizes.min(), rel=1e-6)


@pytest.mark.parametrize("gammas", [(), (1.5,), (float("nan"), 0.1)])
def test_gammas_out_of_range(gammas):
    with pytest.raises(UsageError, match="gamma"):
        solve(gammas, 1.0)


def test_thresholds_out_of_range():
    for threshold, cap in ((0.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(UsageError, match="threshold"):
            solve((0.5, 0.2), threshold, cap)
