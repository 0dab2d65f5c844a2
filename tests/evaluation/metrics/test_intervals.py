"""The intervals that are printed cover what they promise, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm

from taskarith.attacks.shares import difference, level, share
from taskarith.errors import DataError
from taskarith.evaluation.metrics.divergence import agreement, kl_divergence
from taskarith.evaluation.metrics.intervals import RATE, estimate, finite, mean, over_seeds, ratio
from taskarith.evaluation.metrics.low_fpr import tpr_with_interval
from taskarith.evaluation.metrics.membership import auc_with_interval, loss_score, privleak_with_interval
from taskarith.evaluation.metrics.qa import (
    forget_quality,
    forget_truth,
    harmonic_mean,
    normalised_probability,
    probability,
    truth_ratio,
    utility_truth,
)

RUNS = 400

reals = st.lists(st.floats(-100, 100), min_size=2, max_size=30)

SLACK = 3 * math.sqrt(0.05 * 0.95 / RUNS)  # three standard errors of a simulated coverage of 95%


def coverage(draw, truth, runs=RUNS):
    """The share of intervals that hold the truth; one without an end counts as a miss."""
    rng = np.random.default_rng(7)
    found = [draw(rng) for _ in range(runs)]
    assert all(one.low is None or one.low <= one.value <= one.high for one in found)
    return np.mean([one.low is not None and one.low <= truth <= one.high for one in found])


def mixed(rng, n):
    """Mostly known word for word, sometimes not: what few samples do not show."""
    return np.where(rng.random(n) < 0.9, 1.0, rng.random(n))


MEANS = {
    "normal": (lambda rng, n: rng.normal(1, 1, n), 1.0, None, 0.95),
    "skewed losses": (
        lambda rng, n: rng.exponential(1, n),
        1.0,
        (0, math.inf),
        {4: 0.87, 8: 0.89, 16: 0.915, 32: 0.92, 64: 0.94},
    ),
    "shares": (lambda rng, n: rng.beta(0.3, 3, n), 1 / 11, RATE, {4: 0.95, 8: 0.95, 16: 0.95, 32: 0.92, 64: 0.93}),
    "nearly all known": (mixed, 0.95, RATE, 0.95),
    "a rate of 0.1": (lambda rng, n: (rng.random(n) < 0.1).astype(float), 0.1, RATE, 0.95),
    "a rate of 0.98": (lambda rng, n: (rng.random(n) < 0.98).astype(float), 0.98, RATE, 0.95),
}


@pytest.mark.parametrize("n", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("name", MEANS)
def test_means_cover(name, n):
    draw, truth, bounds, least = MEANS[name]
    how = {} if bounds is None else {"bounds": bounds}
    share = coverage(lambda rng: mean(draw(rng, n), **how), truth)
    assert share >= (least if isinstance(least, float) else least[n]) - SLACK


@pytest.mark.parametrize("n", [6, 16, 64])
def test_ratios_cover_where_lengths_differ(n):
    def draw(rng):
        tokens = rng.integers(20, 250, n)
        return ratio(tokens * rng.normal(2, 0.5, n), tokens, (0, math.inf))

    assert coverage(draw, 2.0) >= 0.92 - SLACK


@pytest.mark.parametrize(("m", "n"), [(4, 4), (17, 17), (8, 60)])
@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("truth", [0.5, 0.96, 0.995])
def test_aucs_cover(truth, spread, m, n):
    shift = math.hypot(1, spread) * norm.ppf(truth)
    share = coverage(lambda rng: auc_with_interval(rng.normal(shift, spread, m), rng.normal(0, 1, n)), truth, 150)
    assert share >= 0.93 - SLACK * math.sqrt(RUNS / 150)


@pytest.mark.parametrize(("rate", "m", "n"), [(0.05, 17, 20), (0.05, 200, 200), (0.01, 60, 150)])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_true_positive_rates_cover(shift, rate, m, n):
    """At least: both ends allow for the threshold and for the members beyond it."""
    truth = norm.sf(norm.isf(rate) - shift)
    share = coverage(lambda rng: tpr_with_interval(rng.normal(shift, 1, m), rng.normal(0, 1, n), rate), truth, 100)
    assert share >= 0.95 - SLACK * 2


def test_privleak_covers():
    """Two models of known AUCs that agree on which samples are hard."""
    first, second = norm.cdf(1 / math.sqrt(4)), norm.cdf(0.2 / math.sqrt(4))
    truth = ((1 - first) / (1 - second) - 1) * 100

    def draw(rng):
        hard = rng.normal(0, 1, (2, 20))
        sides = [hard[0] + rng.normal(1, 1, 20), hard[1] + rng.normal(0, 1, 20)]
        return privleak_with_interval(sides, [hard[0] + rng.normal(0.2, 1, 20), hard[1] + rng.normal(0, 1, 20)])

    assert coverage(draw, truth, 60) >= 0.95 - SLACK * math.sqrt(RUNS / 60)


@pytest.mark.parametrize("n", [8, 40])
def test_harmonic_means_cover(n):
    shapes = ((2, 3), (5, 2), (1, 1))
    truth = float(harmonic_mean([a / (a + b) for a, b in shapes]))

    def draw(rng):
        tables = [rng.beta(a, b, n) for a, b in shapes]
        return estimate(
            lambda *at: harmonic_mean([table[i].mean() for table, i in zip(tables, at, strict=True)]),
            *[n] * 3,
            bounds=RATE,
        )

    assert coverage(draw, truth, 100) >= 0.93 - SLACK * 2


@pytest.mark.parametrize("sizes", [(4, 17), (17, 17), (4, 4)])
def test_the_correlation_of_two_test_sets_covers(sizes):
    """Means of correlations of the inputs of each, of two sets that differ in size, mean and spread."""
    truth = np.tanh(np.array([0.6, 0.1]) + np.random.default_rng(1).normal(0, 1, (100000, 1)) * [0.25, 0.4]).mean()

    def draw(rng):
        sets = [
            np.tanh(rng.normal(mean, spread, n)) for mean, spread, n in zip((0.6, 0.1), (0.25, 0.4), sizes, strict=True)
        ]
        return estimate(lambda i, j: (sets[0][i].mean() + sets[1][j].mean()) / 2, *sizes, bounds=(-1.0, 1.0))

    assert coverage(draw, truth) >= 0.95 - SLACK


def _level(values):
    return level([str(place) for place in range(len(values))], values.tolist(), [1.0] * len(values))


SCORES = {  # before, edited, attacked and never-knew, of prompts that are hard for all of them alike
    "losses": (lambda rng, hard: [rng.normal(mean, 0.4, len(hard)) + hard for mean in (1, 4, 3.7, 4)], 0.1),
    "ROUGE-L": (
        lambda rng, hard: (
            [np.clip(0.9 - hard / 2 + rng.normal(0, 0.2, len(hard)), 0, 1)]
            + [rng.beta(0.6, 3, len(hard)) for _ in range(3)]
        ),
        0.0,
    ),
    "few hits": (
        lambda rng, hard: [(rng.random(len(hard)) < p).astype(float) for p in (0.95, 0, 0.2, 0)],
        0.2 / 0.95,
    ),
}


def _share_of(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("n", [4, 8, 32])
@pytest.mark.parametrize("name", SCORES)
def test_shares_of_what_the_edit_took_cover(name, n):
    """Of those that are given: below a certain gap there is none. The chosen of many attacks holds as well."""
    scores, truth = SCORES[name]
    rng, alone, chosen, attacks = np.random.default_rng(7), [], [], 8
    for _ in range(RUNS):
        hard = rng.random(n)
        before, edited, *_ = map(_level, scores(rng, hard))
        pairs = [map(_level, scores(rng, hard)[2:]) for _ in range(attacks)]
        shares = [share(difference(*pair), difference(before, edited)) for pair in pairs]
        alone.append(shares[0].interval())
        chosen.append(max(one.interval(0.025 / attacks) or (-math.inf, math.inf) for one in shares))
    given = [ends for ends in alone if ends is not None]
    assert not given or _share_of(given, truth) >= 0.92 - 3 * math.sqrt(0.05 * 0.95 / len(given))
    assert _share_of(chosen, truth) >= 0.95 - SLACK


def test_an_interval_without_width_is_none():
    assert mean([2.5] * 9).low is None
    assert ratio([2.5, 5.0], [1, 2], (0, math.inf)).low is None
    assert mean([1.0] * 9, RATE).low == pytest.approx(0.664, abs=1e-3)  # 0.025 ** (1 / 9)
    assert estimate(lambda at: at.size / at.size, 9, bounds=(-1.0, 1.0)).low == pytest.approx(2 * 0.025 ** (1 / 9) - 1)
    parted = auc_with_interval([3, 4, 5, 6.0], [0, 1, 2, 2.5])
    assert (parted.value, parted.high) == (1, 1)
    assert 0.3 < parted.low < 0.7
    assert privleak_with_interval(([3, 4.0], [1, 2.0]), ([1, 2.0], [1, 2.5])).low is None


def test_the_jackknife_of_a_mean_is_the_usual_interval_and_does_not_depend_on_the_groups():
    values = np.random.default_rng(3).normal(0, 1, 30)
    by_hand = mean(values)
    assert estimate(lambda at: values[at].mean(), 30).low == pytest.approx(by_hand.low)
    many = np.random.default_rng(3).normal(0, 1, 3000)
    grouped, exact = estimate(lambda at: many[at].mean(), 3000), mean(many)
    assert grouped.high - grouped.low == pytest.approx(exact.high - exact.low, rel=0.15)


@pytest.mark.parametrize(
    "call",
    [
        probability,
        lambda x: normalised_probability(x[0], x[1:]),
        lambda x: truth_ratio(x[0], x[1:]),
        utility_truth,
        forget_truth,
        harmonic_mean,
        lambda x: forget_quality(x, x * 0.5),
        loss_score,
        lambda x: privleak_with_interval((x, x * 0.5), (x[::-1], x * 0.75)).low,
        lambda x: kl_divergence(-x[None], -x[None, ::-1]),
        lambda x: agreement(-x[None], -x[None, ::-1]),
        mean,
        lambda x: ratio(x, x[::-1]),
    ],
)
def test_what_comes_in_float32_is_calculated_in_float64(call):
    values = np.array([0.1, 0.7, 0.3, 1.1, 0.9, 0.2], dtype=np.float32)
    found, expected = call(values), call(values.astype(np.float64))
    assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)
    assert np.all(found == expected)


@given(reals)
@example([-1.285034315096754e-192] * 2)
def test_a_mean_lies_in_its_interval_in_any_order(values):
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low is None or found.low <= found.value <= found.high
    assert mean(values[::-1]).value == found.value


def test_an_interval_is_about_two_standard_errors_and_the_same_every_time():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    found = mean(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert mean(values) == found
    assert found.to_json() == {"value": found.value, "low": found.low, "high": found.high, "n": 400}


def test_equal_samples_and_one_sample_have_no_interval():
    assert (mean([0.25] * 5).low, mean([0.25] * 5).high) == (None, None)
    assert (mean([2.0]).low, mean([2.0]).n) == (None, 1)


def test_a_ratio_weighs_tokens_not_samples():
    assert ratio([6, 1], [3, 1]).value == 7 / 4
    with pytest.raises(DataError, match="no tokens"):
        ratio([1, 1], [1, 0])


def test_values_of_one_sample_are_left_out_together():
    values = np.arange(50.0)
    found = estimate(lambda i, j: (values[i] - values[i]).mean() + values[j].mean(), 50, 7)
    assert (found.value, found.n) == (3, 57)
    alone = mean(values[:7])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_what_is_not_finite_is_counted_and_refused():
    with pytest.raises(DataError, match="2 of 3 losses are not finite"):
        finite([1, math.nan, math.inf], "losses")
    for call in (lambda: mean([]), lambda: mean([math.nan]), lambda: estimate(lambda i: i, 0)):
        with pytest.raises(DataError):
            call()


def test_seeds_have_a_mean_and_a_spread():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.to_json() == {"value": 2, "spread": 1, "seeds": 3}
    assert over_seeds([1.0, math.inf]).to_json() == {"value": None, "spread": None, "seeds": 2}
    for wrong in ([1.0], [1.0, math.nan]):
        with pytest.raises(DataError):
            over_seeds(wrong)
