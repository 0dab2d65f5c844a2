"""Questions and answers: probabilities, truth ratios, and what TOFU makes of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import DataError
from taskarith.evaluation.metrics.qa import (
    forget_quality,
    forget_truth,
    harmonic_mean,
    normalised_probability,
    probability,
    truth_probability,
    truth_ratio,
    utility_truth,
)

LN2 = math.log(2)
reals = st.lists(st.floats(-100, 100), min_size=2, max_size=30)

losses = st.floats(0, 50)


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


RIGHT = [1.027, 2.28, 0.786, 1.509, 1.697, 2.77]
WRONG = [
    [2.708, 1.224, 2.974, 1.477],
    [0.777, 2.23, 0.214, 1.133],
    [0.387, 3.114, 0.879, 2.775],
    [2.473, 1.414, 2.157, 3.526],
    [0.95, 0.281, 2.445, 4.172],
    [2.615, 3.23, 2.592, 0.268],
]
OPEN_UNLEARNING = [
    0.7443591275649473,
    0.23299076925819517,
    0.7315989176509481,
    0.7075469814802336,
    0.565865002720729,
    0.3557748933116328,
]
"""Of its ``truth_ratio`` with the aggregator ``prob_mean``, at d3d7cf9."""


def test_the_probability_of_the_right_answer_is_open_unlearnings():
    found = truth_probability([truth_ratio(right, wrong) for right, wrong in zip(RIGHT, WRONG, strict=True)])
    assert found == pytest.approx(OPEN_UNLEARNING, abs=1e-9)  # it adds 1e-10 to the denominator
    assert truth_probability([1, 3, math.inf]).tolist() == [0.5, 0.25, 0]


def test_numbers_in_float32_are_calculated_in_float64():
    ratio = np.float32(0.1)
    for number, wanted in ((truth_probability(ratio), 1 / (1 + float(ratio))), (forget_truth(ratio), float(ratio))):
        assert (number.dtype, float(number)) == (np.dtype(np.float64), wanted)
