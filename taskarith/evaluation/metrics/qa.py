"""Metrics of questions and answers: TOFU's probability, truth ratio, model utility and forget quality; MUSE's KnowMem.

Sources: Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs" (arXiv:2401.06121), section 2.2; Shi et al.,
"MUSE" (arXiv:2407.06460), section 3.1. Losses are means over the tokens of an answer, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Floats, finite
from taskarith.evaluation.metrics.text import verbmem

__all__ = [
    "ForgetQuality",
    "forget_quality",
    "forget_truth",
    "harmonic_mean",
    "knowmem",
    "normalised_probability",
    "probability",
    "truth_probability",
    "truth_ratio",
    "utility_truth",
]


def probability(loss: ArrayLike) -> Floats:
    """Return exp(-loss): the geometric mean of the probabilities of an answer's tokens, P(a|q)^(1/|a|).

    :param loss: Mean token loss, any shape.
    :return: float64 of the same shape, in [0, 1].
    :raises DataError: A loss is not finite, or there are none.
    """
    return np.exp(-finite(loss, "losses"))


def normalised_probability(loss: float, perturbed: ArrayLike) -> float:
    """Return p / (p + sum of p_i), p = exp(-loss): the share of the right answer among all answers.

    Convention: TOFU's for real authors and world facts. open-unlearning adds 1e-10 to the denominator; here the
    quotient is computed so that it cannot be 0 / 0.

    :param loss: Mean token loss of the right answer.
    :param perturbed: Those of the wrong ones, shape (answers,).
    :return: In [0, 1].
    :raises DataError: A loss is not finite, or there is no wrong answer.
    """
    away = float(finite(loss, "losses")) - finite(perturbed, "losses of perturbed answers")
    with np.errstate(over="ignore"):  # an overflow gives the right share, 0
        return float(1 / (1 + np.exp(away).sum()))


def truth_ratio(paraphrased: float, perturbed: ArrayLike) -> float:
    """Return R = (product of p_i)^(1/n) / p: the likelihood of wrong answers relative to a paraphrased right one.

    Convention: the geometric mean of the wrong answers' probabilities, as in the code of TOFU and open-unlearning (the
    paper prints the arithmetic one); without open-unlearning's 1e-10 in the denominator.

    :param paraphrased: Mean token loss of the paraphrased right answer.
    :param perturbed: Those of the n wrong ones, shape (n,).
    :return: 0 or more; infinite where the float64 overflows.
    :raises DataError: A loss is not finite, or there is no wrong answer.
    """
    right = float(finite(paraphrased, "losses of paraphrased answers"))
    with np.errstate(over="ignore"):
        return float(np.exp(right - finite(perturbed, "losses of perturbed answers").mean()))


def utility_truth(ratios: ArrayLike) -> Floats:
    """Return max(0, 1 - R), the form of truth ratios in model utility; higher is better. Any shape."""
    return np.maximum(0.0, 1 - np.asarray(ratios, dtype=np.float64))


def forget_truth(ratios: ArrayLike) -> Floats:
    """Return min(R, 1 / R), TOFU's number on forget sets: 1 if right and wrong answers are equally likely."""
    array = np.asarray(ratios, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.minimum(array, 1 / array)


def truth_probability(ratios: ArrayLike) -> Floats:
    """Return p / (p + p_wrong) = 1 / (1 + R), the share of the right answer against a typical wrong one. Any shape.

    Convention: open-unlearning's truth ratio with the aggregator ``prob_mean``, the extent of knowledge of its paper
    (arXiv:2506.12618): p of the paraphrased right answer, p_wrong the geometric mean of the wrong ones; without its
    1e-10 in the denominator.

    :param ratios: R, see ``truth_ratio``; 0 where it is infinite.
    """
    return 1 / (1 + np.asarray(ratios, dtype=np.float64))


def harmonic_mean(values: ArrayLike) -> Floats:
    """Return n / (sum of 1 / x) along the last axis, 0 if a value is 0. TOFU's model utility takes it over nine.

    :param values: Shape (..., n), 0 or more.
    :return: float64 of shape (...).
    :raises DataError: They are empty, or a value is not finite or negative.
    """
    array = finite(values, "values")
    if array.min() < 0:
        raise DataError("the harmonic mean of negative values is undefined", "Give values of 0 or more.")
    with np.errstate(divide="ignore", over="ignore"):
        return array.shape[-1] / (1 / array).sum(-1)


@dataclass(frozen=True)
class ForgetQuality:
    """The two-sample Kolmogorov-Smirnov test of truth ratios.

    :param p_value: Forget quality; near 1, the unlearned model is indistinguishable from one that never knew.
    :param distance: The statistic D, the largest distance between the two distributions.
    """

    p_value: float
    distance: float


def forget_quality(ratios: ArrayLike, retain_ratios: ArrayLike) -> ForgetQuality:
    """Compare the truth ratios of an unlearned model with those of a model trained on the retain set only.

    Convention: TOFU's, the two-sided p-value, exact for up to 10,000 samples (``scipy.stats.ks_2samp``).

    :param ratios: Of the unlearned model on the forget set, shape (samples,); infinite ones rank last.
    :param retain_ratios: Of the retain model on the same samples.
    :raises DataError: One side is empty or has a NaN.
    """
    sides = np.asarray(ratios, dtype=np.float64), np.asarray(retain_ratios, dtype=np.float64)
    for side in sides:
        if not side.size or np.isnan(side).any():
            raise DataError("truth ratios are missing or NaN", "Give the records of both models on the forget set.")
    from scipy.stats import ks_2samp  # late: a heavy import

    test = ks_2samp(*sides)
    return ForgetQuality(float(test.pvalue), float(test.statistic))


def knowmem(answer: str, generated: str) -> float:
    """Return KnowMem of one question, in [0, 100]: ROUGE-L F1 of a generated answer against the true one, times 100.

    Convention: MUSE's code, no stemming, 32 greedy tokens after in-context examples against the whole true answer; the
    formula is VerbMem's.
    """
    return verbmem(answer, generated)
