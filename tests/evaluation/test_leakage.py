"""Numbers that papers print beside forgetting: by hand, by law, and as their sources' own code gave them once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk import FreqDist, ngrams, word_tokenize

from taskarith.errors import DataError
from taskarith.evaluation.metrics.fluency import ngram_entropy
from taskarith.evaluation.metrics.low_fpr import needed_nonmembers, tpr_at_fpr, tpr_with_interval
from taskarith.evaluation.metrics.qa import truth_probability, truth_ratio
from taskarith.evaluation.metrics.sampling import budgets, leak_at_k

# --- p / (p + p wrong) -----------------------------------------------------------------------------------------------

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


# --- TPR at low FPR --------------------------------------------------------------------------------------------------

# fmt: off
MEMBERS = [
    19, 0, 0, 33, 0, 18, 17, 5, 25, 29, 39, 7, 36, 2, 5, 23, 34, 35, 29, 1, 16, 32, 21, 7, 27, 3, 27, 0, 14, 11, 37, 29,
    26, 19, 11, 34, 37, 8, 9, 12, 19, 10, 16, 39, 14, 37, 20, 13, 37, 17,
]
NONMEMBERS = [
    18, 0, 27, 17, 23, -11, -8, -10, 9, 4, 27, -3, -6, 21, 0, 17, -1, 9, -9, 14, 24, 15, 23, 19, 10, 25, 7, -7, 10, 13,
    -5, -7, 14, 5, 7, 19, 15, 23, -6, 18, 9, -11, -10, 2, 13, -6, 9, 27, -7, -7, 26, -3, 22, 2, 18, -10, 13, 22, 1, 13,
]
# fmt: on


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
    with pytest.raises(DataError, match=r"99 nonmembers cannot tell a false positive rate of 0.01 from none"):
        tpr_at_fpr([1, 2], range(99), 0.01)
    with pytest.raises(DataError, match="1 is not a false positive rate"):
        tpr_at_fpr([1, 2], range(99), 1)


# --- fluency ---------------------------------------------------------------------------------------------------------


def by_rome(text):
    """Its ``compute_n_gram_entropy`` in other words, with its own tokenizer but for the splitter of sentences."""
    words, entropies = word_tokenize(text, preserve_line=True), []
    for length in (2, 3):
        shares = np.asarray(list(FreqDist(ngrams(words, length)).values()), dtype=float)
        shares /= shares.sum()
        entropies.append(-(shares * np.log2(shares)).sum())
    return np.mean(np.asarray(entropies) * [2 / 3, 4 / 3])


@pytest.mark.parametrize(
    "text",
    [
        "The keeper's boat isn't green, it's yellow.",
        "salt salt salt salt salt",
        "a b a b a c, a b!",
        "one two three",
    ],
)
def test_fluency_is_romes(text):
    assert ngram_entropy(text) == pytest.approx(by_rome(text), abs=1e-12)


def test_fluency_by_hand():
    assert ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert ngram_entropy("a a a a a a") == 0
    assert [ngram_entropy(text) for text in ("", "one", "one two")] == [0, 0, 0]


# --- leak@k ----------------------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match="2 continuations do not tell the best of 3"):
        leak_at_k([0, 1], 3)
