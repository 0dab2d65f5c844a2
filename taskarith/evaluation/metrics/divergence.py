"""Distance of an edited model's next-token distributions from a reference's: KL divergence, top-1 agreement.

The reference is a model that never saw the forget set, or the base. Sums over tokens are kept in records, so that the
mean over tokens needs no distributions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Floats

__all__ = ["agreement", "kl_divergence"]


def kl_divergence(reference: ArrayLike, edited: ArrayLike) -> Floats:
    """Return KL(reference || edited) of each token in nats: sum over the vocabulary of r * (log r - log e).

    Source: Kullback and Leibler (1951). Convention: the expectation is under the reference, in float64; a token that
    the reference excludes (log r = -inf) contributes 0.

    :param reference: Log-probabilities, shape (tokens, vocabulary), float32 or float64.
    :param edited: Those of the edited model, of the same shape.
    :return: Shape (tokens,), non-negative up to rounding.
    :raises DataError: They are empty, shapes differ, or a divergence is infinite or NaN.
    """
    first, second = _same_shape(reference, edited)
    possible = first > -np.inf
    shares, gaps = np.exp(first), np.subtract(first, second, out=np.zeros_like(first), where=possible)
    divergences = (shares * gaps).sum(-1)
    if not np.isfinite(divergences).all():
        raise DataError(
            "a KL divergence is not finite: the edited model excludes a token that the reference allows, or gives NaN",
            "Check the edited model, or use a smaller alpha.",
        )
    return divergences


def agreement(reference: ArrayLike, edited: ArrayLike) -> NDArray[np.bool_]:
    """Return for each token whether both models have the same first choice; ties go to the lowest index.

    :param reference: Log-probabilities or logits, shape (tokens, vocabulary).
    :param edited: Those of the edited model, of the same shape.
    :return: Shape (tokens,).
    :raises DataError: They are empty, shapes differ, or a value is NaN.
    """
    first, second = _same_shape(reference, edited)
    return first.argmax(-1) == second.argmax(-1)


def _same_shape(reference: ArrayLike, edited: ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(edited, dtype=np.float64)
    if not first.size or first.shape != second.shape:
        raise DataError(
            f"distributions of shapes {first.shape} and {second.shape} cannot be compared",
            "Use two models with the same vocabulary, on the same tokens.",
        )
    if np.isnan(first).any() or np.isnan(second).any():
        raise DataError("a log-probability is NaN", "Check the weights of both models.")
    return first, second
