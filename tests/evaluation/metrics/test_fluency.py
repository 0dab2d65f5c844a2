"""Fluency is ROME's n-gram entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nltk import FreqDist, ngrams, word_tokenize

from taskarith.evaluation.metrics.fluency import ngram_entropy


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
