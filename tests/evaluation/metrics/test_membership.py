"""Membership inference: scores, AUCs and PrivLeak, by hand and by law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from taskarith.errors import DataError
from taskarith.evaluation.metrics.membership import (
    auc,
    auc_with_interval,
    loss_score,
    min_k_plus_score,
    min_k_score,
    privleak,
    privleak_with_interval,
    reference_score,
    zlib_bytes,
    zlib_score,
)

few = st.lists(st.integers(-5, 5), min_size=1, max_size=12)


def test_membership_scores_by_hand():
    token_losses = [3, 1, 5, 2, 4]
    assert loss_score(token_losses) == -3
    assert min_k_score(token_losses, 0.4) == -4.5
    assert min_k_score(token_losses, 0.1) == -5  # one token at least
    assert min_k_score(token_losses, 1) == loss_score(token_losses)
    assert min_k_plus_score([0.5, -2, -1, 1, 0], 0.59) == -1.5  # floor(2.95) tokens
    assert reference_score(token_losses, [6]) == -0.5
    assert zlib_score(token_losses, 12) == -0.25
    assert zlib_bytes("a" * 1000) < 30 < zlib_bytes("Zwölf Boxkämpfer jagen Viktor")


@pytest.mark.parametrize(
    "call",
    [
        lambda: loss_score([]),
        lambda: loss_score([1, math.nan]),
        lambda: min_k_score([1], 0),
        lambda: min_k_plus_score([1, math.inf], 0.2),
        lambda: zlib_score([1], 0),
        lambda: reference_score([1], [0]),
        lambda: auc([], [1]),
        lambda: auc([1], [math.nan]),
        lambda: privleak(0.5, 1),
        lambda: privleak(1.5, 0.5),
    ],
)
def test_membership_without_meaning_is_refused(call):
    with pytest.raises(DataError):
        call()


def test_auc_with_its_interval_by_hand():
    members, nonmembers = [3, 2, 1], [0, 2, 0.5]
    # of the nine pairs seven are right, one is a tie
    found = auc_with_interval(members, nonmembers)
    assert found.value == auc(members, nonmembers) == pytest.approx(7.5 / 9)
    # shares of nonmembers below each member, and of members above each nonmember
    sides = [np.var([1, 2.5 / 3, 2 / 3], ddof=1) / 3, np.var([1, 0.5, 1], ddof=1) / 3]
    half = student_t.ppf(0.975, sum(sides) ** 2 / sum(v * v / 2 for v in sides)) * math.sqrt(sum(sides))
    half /= found.value * (1 - found.value)
    ends = [1 / (1 + math.exp(-math.log(found.value / (1 - found.value)) - sign * half)) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(tuple(ends))  # wider than the score interval
    assert found.n == 6
    assert auc_with_interval([1], [0, 0]).low is None
    two = auc_with_interval([1, 3], [0, 2])  # two of each side are enough: shares of 1/2 and 1
    half = student_t.ppf(0.975, 2) * math.sqrt(2 * 0.125 / 2) / (0.75 * 0.25)
    assert (two.value, two.low) == (0.75, pytest.approx(1 / (1 + math.exp(half - math.log(3)))))


@given(few, few)
def test_auc_is_the_share_of_pairs_and_swapped_labels_give_the_rest(members, nonmembers):
    pairs = [(m > n) + (m == n) / 2 for m in members for n in nonmembers]
    assert auc(members, nonmembers) == pytest.approx(np.mean(pairs))
    assert auc(nonmembers, members) == pytest.approx(1 - auc(members, nonmembers))
    assert auc([math.exp(m) for m in members], [math.exp(n) for n in nonmembers]) == auc(members, nonmembers)


def test_privleak_says_known_as_retrained_or_too_much():
    assert privleak(1.0, 0.5) == -100
    assert privleak(0.53, 0.53) == 0
    assert privleak(0.0, 0.5) == 100
    assert privleak(0.6, 0.2) == pytest.approx((0.4 - 0.8) / 0.8 * 100)


def test_the_interval_of_privleak_is_that_of_its_resamples():
    rng = np.random.default_rng(3)
    sides = [rng.integers(0, 6, size).astype(float) for size in (9, 7, 9, 7)]  # with ties
    found, again = privleak_with_interval(sides[:2], sides[2:]), np.random.default_rng(42)
    draws = [again.integers(0, size, (2000, size)) for size in (9, 7)]
    values = [privleak(*(auc(sides[k][i], sides[k + 1][j]) for k in (0, 2))) for i, j in zip(*draws, strict=True)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_privleak_has_an_interval_where_every_resample_has_a_value():
    rng = np.random.default_rng(0)
    scores = [(rng.normal(shift, 1, 60), rng.normal(0, 1, 50)) for shift in (1.0, 0.0)]
    found = privleak_with_interval(*scores)
    assert found.value == privleak(auc(*scores[0]), auc(*scores[1]))
    assert found.low < found.value < found.high < 0
    assert found.n == 110
    same = privleak_with_interval(scores[0], scores[0])
    assert (same.value, same.low) == (0, None)  # each sample is drawn for both: no resample differs
    few = privleak_with_interval(([1.0, 0.0], [0.0, 0.5]), ([1.0, 0.0], [0.0, 0.5]))
    assert (few.low, few.high) == (None, None)  # a resample of the first member alone is told from all nonmembers


def test_the_smallest_size_and_samples_with_which_there_is_a_number():
    assert zlib_score([2.0], 1) == -2.0
    with pytest.raises(DataError, match="is not positive"):
        zlib_score([2.0], 0)
    equal = auc_with_interval([1.0, 1.0], [1.0, 1.0])  # one half, without any variance
    assert equal.value == 0.5
    assert 0 <= equal.low < 0.5 < equal.high <= 1
    two = privleak_with_interval(([0.0, 2.0], [1.0, 1.0]), ([0.0, 0.0], [1.0, 1.0]))
    assert (two.value, two.low, two.high, two.n) == (-50, -100, 0, 4)
