"""Metrics as functions of arrays: values by hand, and laws."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from taskarith.errors import DataError
from taskarith.evaluation.metrics.divergence import agreement, kl_divergence
from taskarith.evaluation.metrics.intervals import estimate, finite, mean, over_seeds, ratio
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
from taskarith.evaluation.metrics.qa import (
    forget_quality,
    forget_truth,
    harmonic_mean,
    knowmem,
    normalised_probability,
    probability,
    truth_ratio,
    utility_truth,
)
from taskarith.evaluation.metrics.text import exact_memorisation, extraction_strength, perplexity, verbmem

LN2 = math.log(2)

few = st.lists(st.integers(-5, 5), min_size=1, max_size=12)
reals = st.lists(st.floats(-100, 100), min_size=2, max_size=30)
losses = st.floats(0, 50)


# -- text


@pytest.mark.parametrize(
    ("hits", "strength"),
    [("1111", 1), ("0111", 3 / 4), ("1011", 1 / 2), ("0101", 1 / 4), ("1110", 1 / 4), ("0000", 1 / 4), ("1", 1)],
)
def test_extraction_strength_by_hand(hits, strength):
    assert extraction_strength([hit == "1" for hit in hits]) == strength


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_extraction_strength_is_the_definition_tried_out(hits):
    prefix = next((k for k in range(len(hits)) if all(hits[k:])), len(hits) - 1)
    assert extraction_strength(hits) == 1 - prefix / len(hits)


def test_exact_memorisation_is_a_share_of_each_sample():
    assert exact_memorisation([3, 0], [4, 2]).tolist() == [0.75, 0]
    with pytest.raises(DataError, match="no tokens"):
        exact_memorisation([0], [0])
    with pytest.raises(DataError, match="no tokens"):
        extraction_strength([])


def test_perplexity_overflows_to_infinity():
    assert perplexity(LN2) == pytest.approx(2)
    assert perplexity(800.0) == math.inf


def test_muses_rouge_is_in_percent_and_not_stemmed():
    # four words each, three in common
    assert verbmem("the cat sat down", "the cat sits down") == knowmem("the cat sat down", "the cat sits down") == 75
    assert verbmem("skies", "sky") == 0


# -- questions and answers


def test_probabilities_by_hand():
    assert probability([0, LN2]).tolist() == [1, 0.5]
    # 1/2 against 1/4 and 1/4
    assert normalised_probability(LN2, [2 * LN2, 2 * LN2]) == pytest.approx(1 / 2)
    assert normalised_probability(5000.0, [1.0]) == 0  # not 0 / 0
    assert normalised_probability(1.0, [5000.0]) == 1


def test_truth_ratio_by_hand():
    # wrong answers of 1/4 and 1/16 have the geometric mean 1/8; the right one has 1/2
    assert truth_ratio(LN2, [2 * LN2, 4 * LN2]) == pytest.approx(1 / 4)
    assert truth_ratio(3 * LN2, [LN2]) == pytest.approx(4)
    assert truth_ratio(5000.0, [0.0]) == math.inf
    assert utility_truth([0.25, 4, math.inf]).tolist() == [0.75, 0, 0]
    assert forget_truth([0.25, 4, 0, math.inf, 1]).tolist() == [0.25, 0.25, 0, 0, 1]


@given(losses, st.lists(losses, min_size=1, max_size=6))
def test_truth_ratio_turns_over_with_its_sides(right, wrong):
    level = float(np.mean(wrong))
    assert truth_ratio(right, wrong) * truth_ratio(level, [right]) == pytest.approx(1)


@given(losses, st.lists(losses, min_size=1, max_size=6))
def test_normalised_probabilities_of_all_answers_add_up_to_one(first, others):
    answers = [first, *others]
    shares = [normalised_probability(loss, answers[:i] + answers[i + 1 :]) for i, loss in enumerate(answers)]
    assert sum(shares) == pytest.approx(1)


def test_harmonic_mean_by_hand():
    assert harmonic_mean([1, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert harmonic_mean([1, 0]) == 0
    assert harmonic_mean([[1, 1], [0.5, 0]]).tolist() == [1, 0]
    for wrong in ([], [1, math.nan], [1, -1]):
        with pytest.raises(DataError):
            harmonic_mean(wrong)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_a_harmonic_mean_is_between_the_least_and_the_arithmetic_mean(values):
    assert min(values) * (1 - 1e-12) <= harmonic_mean(values) <= np.mean(values) * (1 + 1e-12)


def test_forget_quality_by_hand():
    # no overlap: 2 of the C(8, 4) = 70 orders are so extreme
    found = forget_quality([1, 2, 3, 4], [5, 6, 7, math.inf])
    assert (found.p_value, found.distance) == (pytest.approx(2 / 70), 1)
    for sides in (([], [1]), ([1], []), ([math.nan], [1])):
        with pytest.raises(DataError, match="missing or NaN"):
            forget_quality(*sides)


@given(reals)
def test_forget_quality_of_equal_samples_is_one(ratios):
    found = forget_quality(ratios, ratios[::-1])
    assert (found.p_value, found.distance) == (1, 0)


# -- membership


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


# -- divergence


def test_divergence_by_hand():
    reference, edited = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.log([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    assert kl_divergence(reference, edited) == pytest.approx([0.25 * LN2, 0])
    assert agreement(reference, edited).tolist() == [False, True]
    with np.errstate(divide="ignore"):
        one_sided = np.log([[0.5, 0.5, 0.0]])
    assert kl_divergence(one_sided, np.log([[0.25, 0.25, 0.5]])) == pytest.approx([LN2])
    with pytest.raises(DataError, match="excludes"):
        kl_divergence(np.log([[0.25, 0.25, 0.5]]), one_sided)
    for wrong in (reference[:1], np.full((2, 3), math.nan)):
        with pytest.raises(DataError):
            kl_divergence(reference, wrong)


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=2, max_size=20))
def test_divergence_is_none_from_itself_and_never_negative(logits):
    first, second = (np.asarray(side) - np.logaddexp.reduce(side) for side in zip(*logits, strict=True))
    assert kl_divergence([first], [second])[0] >= -1e-12
    assert kl_divergence([first], [first])[0] == 0


# -- precision


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


# -- intervals


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
