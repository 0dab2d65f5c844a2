"""Reproduction of a text: perplexity, exact memorisation, extraction strength, VerbMem.

ROUGE-L itself is in ``taskarith.evaluation.metrics.rouge``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Floats, finite
from taskarith.evaluation.metrics.rouge import rouge_l

__all__ = ["exact_memorisation", "extraction_strength", "perplexity", "verbmem"]


def perplexity(loss: float) -> float:
    """Return exp(loss), loss being the mean over tokens in nats; infinite beyond the range of a float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def exact_memorisation(correct: ArrayLike, tokens: ArrayLike) -> Floats:
    """Return the share of each sample's tokens that are the model's first choice, given the true tokens before each.

    Source: Tirumala et al., "Memorization Without Overfitting" (arXiv:2205.10770). Convention: open-unlearning's,
    averaged over samples, whereas top-1 accuracy averages over tokens.

    :param correct: Tokens that are the first choice, shape (samples,).
    :param tokens: Scored tokens, shape (samples,).
    :return: In [0, 1], shape (samples,).
    :raises DataError: There are no samples, or one has no tokens.
    """
    counts = finite(tokens, "counts of tokens")
    if counts.min() <= 0:
        raise DataError("a sample has no tokens", "Remove samples without scored tokens from the records.")
    return finite(correct, "counts of right tokens") / counts


def extraction_strength(hits: ArrayLike) -> float:
    """Return 1 - k / n, k being the length of the shortest prefix after which every token is the model's first choice.

    Source: Carlini et al., "Extracting Training Data from Large Language Models" (arXiv:2012.07805), in the form of
    Wang et al. (arXiv:2406.09179). Convention: open-unlearning's, which tries k = 0 ... n - 1 only, so that a
    sample whose last token is wrong gets 1 / n; the formula alone would give 0.

    :param hits: Whether each of the n scored tokens is the first choice, teacher-forced, bool of shape (n,).
    :raises DataError: There are no tokens.
    """
    array = np.asarray(hits, dtype=np.bool_)
    if not array.size:
        raise DataError("a sample has no tokens", "Remove samples without scored tokens from the records.")
    misses = np.flatnonzero(~array)
    prefix = int(misses[-1]) + 1 if len(misses) else 0
    return 1 - min(prefix, len(array) - 1) / len(array)


def verbmem(reference: str, continuation: str) -> float:
    """Return VerbMem of one prompt, in [0, 100]: ROUGE-L F1 of a greedy continuation against the true one, times 100.

    Source: Shi et al., "MUSE" (arXiv:2407.06460), section 3.1. Convention: MUSE's code, no stemming, 128 tokens of
    each; open-unlearning stems.
    """
    return 100 * rouge_l(reference, continuation).f1
