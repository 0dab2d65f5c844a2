"""ROUGE-L equals the `rouge_score` package, to the last digit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from taskarith.evaluation.metrics.rouge import rouge_l, stems, words

ORACLES = {stem: RougeScorer(["rougeL"], use_stemmer=stem) for stem in (False, True)}

anything = st.text(max_size=60)
INFLECTED = """money days skies dying dies lying news innings flies happily relational assembly sensibly deploy exceed
conveying generalizations hopping hoping agreed feed x2s conflated 1990s apologies analogy"""
inflected = st.lists(st.sampled_from(INFLECTED.split()), max_size=25).map(" ".join)
few_words = st.lists(st.sampled_from(["a", "b", "the", "Cat", "cat's", "x1", "-", "İ", "é"]), max_size=25).map(" ".join)


def expected(reference, candidate, stem=False):
    score = ORACLES[stem].score(reference, candidate)["rougeL"]
    return score.precision, score.recall, score.fmeasure


def measured(reference, candidate, stem=False):
    score = rouge_l(reference, candidate, stem=stem)
    return score.precision, score.recall, score.f1


@settings(max_examples=300, deadline=None)
@given(st.one_of(anything, few_words), st.one_of(anything, few_words))
def test_equals_the_oracle(reference, candidate):
    assert measured(reference, candidate) == expected(reference, candidate)


@settings(max_examples=300)
@given(st.one_of(anything, few_words, inflected), st.one_of(anything, few_words, inflected))
def test_stemmed_equals_the_oracle(reference, candidate):
    assert measured(reference, candidate, stem=True) == expected(reference, candidate, stem=True)


def test_stems_are_those_of_words_longer_than_three_letters():
    assert stems("The flies died happily; his money was generous") == [
        *("the", "fli", "die", "happili", "his", "money", "was", "gener")
    ]


@settings(deadline=None)
@given(few_words)
def test_a_text_with_words_reproduces_itself(text):
    score = rouge_l(text, text)
    assert (score.precision, score.recall, score.f1) == ((1, 1, 1) if words(text) else (0, 0, 0))


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ("", ""),
        ("", "one"),
        ("one", ""),
        ("!?…", "。"),
        ("Kelvin \u212a", "kelvin k"),  # the Kelvin sign is lower-cased to an ASCII k
        ("naïve café", "na ve caf"),  # letters beyond ASCII separate words
        ("İstanbul", "i stanbul"),
        ("a_b-c", "a b c"),
        ("١٢٣ 123", "123"),
        ("word\x00word", "word word"),
        ("a " * 500, "b a " * 300),
    ],
)
def test_hostile_texts_equal_the_oracle(reference, candidate):
    for stem in (False, True):
        assert measured(reference, candidate, stem) == expected(reference, candidate, stem)


def test_values_by_hand():
    # six words, five words, and "the cat on mat" in common
    score = rouge_l("The cat sat on the mat.", "the cat, on a mat")
    assert score.precision == 4 / 5
    assert score.recall == 4 / 6
    assert score.f1 == pytest.approx(8 / 11)
