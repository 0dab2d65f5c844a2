"""The intervals that are printed cover what they promise, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from taskarith.attacks.shares import difference, level, share
from taskarith.evaluation.metrics.intervals import RATE, estimate, mean, ratio
from taskarith.evaluation.metrics.low_fpr import tpr_with_interval
from taskarith.evaluation.metrics.membership import auc_with_interval, privleak_with_interval
from taskarith.evaluation.metrics.merging import Answered, normalised_accuracy
from taskarith.evaluation.metrics.qa import harmonic_mean

RUNS = 400
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


@pytest.mark.parametrize(("n", "least"), [(12, 0.95), (20, 0.92), (60, 0.92), (200, 0.91)])
@pytest.mark.parametrize("right", [(0.6, 0.8), (0.8, 0.85)])
def test_normalised_accuracies_cover(right, n, least):
    """Of those that are given: where both models do the same there is none."""
    merged, finetuned = right
    rng, given = np.random.default_rng(7), []
    for _ in range(RUNS):
        best = rng.random(n) < finetuned
        kept = best & (rng.random(n) < merged / finetuned)
        found = normalised_accuracy([Answered(kept.astype(float), best.astype(float), np.ones(n))])
        given += [] if found.low is None else [found.low <= merged / finetuned <= found.high]
    assert np.mean(given) >= least - 3 * math.sqrt(0.05 * 0.95 / len(given))


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
