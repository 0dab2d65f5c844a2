"""Fluency of generated text: the entropy of its n-grams, which repetition lowers."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence

__all__ = ["ngram_entropy"]

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Length of n-grams to the weight of their entropy."""


def ngram_entropy(text: str) -> float:
    """Return the mean of 2/3 of the entropy of a text's bigrams and 4/3 of that of its trigrams, in bits.

    Source: Zhang et al. (arXiv:1809.05972) in the form of Meng et al., "Locating and Editing Factual Associations in
    GPT" (arXiv:2202.05262), whose code uses it as fluency of 100 generated tokens. Convention: words and punctuation of
    NLTK's word tokenizer over the whole text, without its sentence splitter, whose data would have to be downloaded; a
    text too short for an n-gram has entropy 0. Entropy grows with length: compare only texts of equal length.
    """
    words = _tokenizer()(text)
    return sum(weight * _entropy(words, length) for length, weight in _WEIGHTS.items()) / len(_WEIGHTS)


def _entropy(words: Sequence[str], length: int) -> float:
    counts = Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
    total = counts.total()
    return math.fsum(count / total * math.log2(total / count) for count in counts.values())


@functools.cache
def _tokenizer() -> Callable[[str], list[str]]:
    from nltk.tokenize import NLTKWordTokenizer  # late: it takes a second, and few need it

    return NLTKWordTokenizer().tokenize
