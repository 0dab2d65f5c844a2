"""Membership inference: do a model's losses show that it saw a sample? Scores, their AUC, and PrivLeak.

Every score is higher for a sample that looks more like a member, so that an AUC above 0.5 means leakage.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import Estimate, Floats, finite, student

__all__ = [
    "auc",
    "auc_with_interval",
    "loss_score",
    "min_k_plus_score",
    "min_k_score",
    "privleak",
    "privleak_with_interval",
    "reference_score",
    "zlib_bytes",
    "zlib_score",
]

_QUANTILE = 1.959963984540054  # of the normal distribution, for 95%
_NEAR = 1e-12
_RESAMPLES, _SEED = 2_000, 42
_MAX_INDICES = 1_000_000  # resample indices in memory at once


def loss_score(token_losses: ArrayLike) -> float:
    """Return minus the mean token loss. Source: Yeom et al. (arXiv:1709.01604).

    :param token_losses: Nats, shape (tokens,).
    :raises DataError: They are empty, or a value is not finite.
    """
    return -float(finite(token_losses, "token losses").mean())


def zlib_bytes(text: str) -> int:
    """Return the size of a text compressed by zlib at its default level, a measure of its information."""
    return len(zlib.compress(text.encode("utf-8")))


def zlib_score(token_losses: ArrayLike, size: int) -> float:
    """Return minus the mean token loss over the compressed size, which discounts easily predicted texts.

    Source: Carlini et al. (arXiv:2012.07805), who count bits; this counts bytes like MIMIR and
    open-unlearning, which leaves the order and the AUC unchanged.

    :param token_losses: Nats, shape (tokens,).
    :param size: ``zlib_bytes`` of the text.
    :raises DataError: There are no losses, a loss is not finite, or the size is not positive.
    """
    if size <= 0:
        raise DataError(f"the compressed size {size} is not positive", "Record zlib_bytes of the sample's text.")
    return loss_score(token_losses) / size


def min_k_score(token_losses: ArrayLike, share: float) -> float:
    """Return the mean log-probability of the least likely tokens. Source: Shi et al., Min-K% Prob (arXiv:2310.16789).

    Convention: max(1, floor(share * n)) tokens are kept.

    :param token_losses: Nats, shape (n,).
    :param share: In (0, 1]; 0.2 in the paper, 0.4 in MUSE.
    :raises DataError: They are empty, or a value is not finite.
    """
    losses = np.sort(finite(token_losses, "token losses"))
    return -float(losses[-_kept(len(losses), share) :].mean())


def min_k_plus_score(z_scores: ArrayLike, share: float) -> float:
    """Return the mean of the lowest z-scores. Source: Zhang et al., Min-K%++ (arXiv:2404.02936).

    A token's z-score is (log p(token) - m) / s, where m and s are mean and standard deviation of log p over the
    vocabulary, weighted by p itself. Convention: max(1, floor(share * n)) tokens are kept; s squared is at least 1e-6
    (as in open-unlearning), since it vanishes where a model is certain.

    :param z_scores: Shape (n,).
    :param share: In (0, 1].
    :raises DataError: They are empty, or a value is not finite.
    """
    scores = np.sort(finite(z_scores, "z-scores"))
    return float(scores[: _kept(len(scores), share)].mean())


def reference_score(token_losses: ArrayLike, reference_token_losses: ArrayLike) -> float:
    """Return minus the ratio of the mean token loss to that of a reference model on the same sample.

    Source: Carlini et al. (arXiv:2012.07805), the ratio of log-perplexities; MIMIR and open-unlearning take the
    difference. The two models may tokenise differently.

    :param token_losses: Nats, shape (tokens,).
    :param reference_token_losses: Nats, shape (tokens of the reference model,).
    :raises DataError: They are empty, a loss is not finite, or all losses of the reference are 0.
    """
    reference = -loss_score(reference_token_losses)
    if not reference:
        raise DataError(
            "the losses of a reference model are all 0", "Use a reference model that does not know the sample."
        )
    return loss_score(token_losses) / reference


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Return P(score of a member > score of a nonmember), ties counting half: the area under the ROC curve.

    :param members: Shape (m,).
    :param nonmembers: Shape (n,).
    :raises DataError: A side is empty, or a score is not finite.
    """
    inside, _ = _placements(members, nonmembers)
    return float(inside.mean())


def auc_with_interval(members: ArrayLike, nonmembers: ArrayLike) -> Estimate:
    """Return the AUC with a 95% interval that also holds for few samples and near 0 and 1.

    It is the union of two intervals. One is Student's t on the logit of the AUC, with the standard error of DeLong,
    DeLong and Clarke-Pearson (1988) by midranks as in Sun and Xu (2014), and the degrees of freedom of Welch and
    Satterthwaite: it holds if one side spreads more than the other. The other is the score interval of Newcombe (2006,
    method 5), which has a width even if members and nonmembers are fully separated, where the first has none.

    :param members: Shape (m,).
    :param nonmembers: Shape (n,).
    :return: Without an interval if a side has one sample; ``n`` is m + n.
    :raises DataError: A side is empty, or a score is not finite.
    """
    inside, outside = _placements(members, nonmembers)
    value, count = float(inside.mean()), len(inside) + len(outside)
    if min(len(inside), len(outside)) < 2:
        return Estimate(value, None, None, count)
    low, high = _score_interval(value, len(inside), len(outside))
    variances = [float(side.var(ddof=1)) / len(side) for side in (inside, outside)]
    if 0 < value < 1 and sum(variances) > 0:
        freedom = sum(variances) ** 2 / sum(
            variance**2 / (len(side) - 1) for variance, side in zip(variances, (inside, outside), strict=True)
        )
        half = student(freedom) * math.sqrt(sum(variances)) / (value * (1 - value))
        low, high = min(low, _expit(_logit(value) - half)), max(high, _expit(_logit(value) + half))
    return Estimate(value, low, high, count)


def _score_interval(value: float, members: int, nonmembers: int) -> tuple[float, float]:
    """Return the AUCs whose own standard error, times 1.96, is their distance from the observed one."""
    from scipy.optimize import brentq  # late: a heavy import

    size = (members + nonmembers) / 2 - 1

    def beyond(auc: float) -> float:
        spread = 1 + size * ((1 - auc) / (2 - auc) + auc / (1 + auc))
        return abs(auc - value) - _QUANTILE * math.sqrt(auc * (1 - auc) * spread / (members * nonmembers))

    inner = min(max(value, _NEAR), 1 - _NEAR)  # the standard error is 0 at 0 and 1
    low = float(brentq(beyond, 0, inner)) if value > 0 else 0.0
    high = float(brentq(beyond, inner, 1)) if value < 1 else 1.0
    return low, high


def _logit(value: float) -> float:
    return math.log(value / (1 - value))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def privleak(membership_auc: float, retrained_auc: float) -> float:
    """Return PrivLeak in percent: (A - A_retrain) / A_retrain * 100, with A = 1 - AUC.

    Source: Shi et al., "MUSE" (arXiv:2407.06460), section 3.2. Convention: MUSE's code takes Min-40% with the score
    -loss and calls the holdout set the positive class, so that its A is 1 minus the membership AUC used here. Then
    -100 means that the forget set is still known, 0 as if retrained, and above 0 that too much was unlearned.
    open-unlearning has the opposite sign of A.

    :param membership_auc: Of the unlearned model, forget set against holdout set.
    :param retrained_auc: Of a model that never saw the forget set.
    :raises DataError: An AUC is outside [0, 1], or that of the retrained model is 1.
    """
    if not (0 <= membership_auc <= 1 and 0 <= retrained_auc <= 1):
        raise DataError(f"{membership_auc} and {retrained_auc} must both be AUCs", "Give numbers in [0, 1].")
    if retrained_auc == 1:
        raise DataError(
            "the retrained model separates the forget set from the holdout set completely, so PrivLeak divides by zero",
            "Check that it never saw the forget set.",
        )
    return (retrained_auc - membership_auc) / (1 - retrained_auc) * 100


def privleak_with_interval(
    sides: tuple[ArrayLike, ArrayLike], retrained_sides: tuple[ArrayLike, ArrayLike]
) -> Estimate:
    """Return PrivLeak with its percentile bootstrap interval; a resample draws the same samples for both models.

    Source: Efron (1979); 2,000 resamples, seed 42.

    :param sides: Scores of members and of nonmembers by the unlearned model, shapes (m,) and (n,).
    :param retrained_sides: Scores of the same samples in the same order by the retrained model.
    :return: Without an interval if a side has one sample, the retrained AUC of a resample is 1, or all resamples have
        the same value, as when either model fully separates the two sides; ``n`` is m + n.
    :raises DataError: As for ``privleak`` and ``auc``.
    """
    value = privleak(auc(*sides), auc(*retrained_sides))
    sizes = [len(np.asarray(side)) for side in sides]
    rng = np.random.default_rng(_SEED)
    first, second = _resampled_auc(*sides), _resampled_auc(*retrained_sides)
    resampled: list[Floats] = []
    step = max(1, _MAX_INDICES // sum(sizes))
    for start in range(0, _RESAMPLES, step):
        count = min(step, _RESAMPLES - start)
        drawn = [rng.integers(0, size, (count, size)) for size in sizes]
        here, retrained = first(*drawn), second(*drawn)
        resampled.append((retrained - here) / np.where(retrained < 1, 1 - retrained, np.nan) * 100)
    values = np.concatenate(resampled)
    if min(sizes) < 2 or np.isnan(values).any() or np.ptp(values) == 0:
        return Estimate(value, None, None, sum(sizes))
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value, float(low), float(high), sum(sizes))


def _resampled_auc(
    members: ArrayLike, nonmembers: ArrayLike
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]:
    """Return the AUC as a function of resamples of both sides, of shapes (..., m) and (..., n)."""
    inside, outside = (np.asarray(side, dtype=np.float64) for side in (members, nonmembers))
    values, codes = np.unique(np.concatenate([inside, outside]), return_inverse=True)

    def resampled_auc(first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
        above = _code_counts(codes[: len(inside)], first, len(values))
        below = _code_counts(codes[len(inside) :], second, len(values))
        passed = below.cumsum(-1) - below / 2  # nonmembers below, ties half
        return (above * passed).sum(-1) / (len(inside) * len(outside))

    return resampled_auc


def _code_counts(codes: NDArray[Any], positions: NDArray[np.int64], kinds: int) -> Floats:
    """Count the codes 0 to ``kinds`` - 1 in resamples of shape (..., size)."""
    rows = codes[positions.reshape(-1, positions.shape[-1])]
    offsets = rows + kinds * np.arange(len(rows))[:, None]
    counts = np.bincount(offsets.ravel(), minlength=kinds * len(rows)).astype(np.float64)
    return counts.reshape(*positions.shape[:-1], kinds)


def _kept(length: int, share: float) -> int:
    if not 0 < share <= 1:
        raise DataError(f"{share} is not a share for Min-K%", "Give a number above 0 and up to 1.")
    return max(1, math.floor(share * length))


def _placements(members: ArrayLike, nonmembers: ArrayLike) -> tuple[Floats, Floats]:
    """Return the share of nonmembers below each member, and of members above each nonmember."""
    inside, outside = finite(members, "scores of members"), finite(nonmembers, "scores of nonmembers")
    from scipy.stats import rankdata  # late: a heavy import

    ranks: Any = rankdata(np.concatenate([inside, outside]))
    below = (ranks[: len(inside)] - rankdata(inside)) / len(outside)
    above = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    return below, above
