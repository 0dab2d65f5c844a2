"""How much of a text a model has by heart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.errors import DataError
from taskarith.evaluation.metrics.qa import knowmem
from taskarith.evaluation.metrics.text import exact_memorisation, extraction_strength, perplexity, verbmem

LN2 = math.log(2)


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
