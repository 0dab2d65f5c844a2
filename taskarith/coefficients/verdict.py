"""Aligned, irrelevant or contradictory, and what the theorems then allow.

Theorems of Li et al., "When is Task Vector Provably Effective for Model Editing?", ICLR 2025, for models
``base + tau_1 + lambda tau_2``. They are proved for a one-layer transformer with hinge loss on data with one feature a
task; alpha is the inner product of the two tasks' features. ``Theta`` hides constants that nobody knows for a real
model, and beta is small but unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["MARGIN", "Statement", "Verdict", "judge"]

MARGIN = 0.2
"""Correlations within plus and minus this are called irrelevant; the paper's irrelevant digits have 0.16."""

_STANDS = "the measured correlation stands for the inner product of the tasks' features"
_PROVED = "proved for a one-layer transformer with hinge loss"


@dataclass(frozen=True)
class Statement:
    """What follows, and what it rests on.

    :param text: What is said.
    :param assumptions: Without which it is not.
    """

    text: str
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """How two tasks relate.

    :param first: Name of one.
    :param second: Name of the other.
    :param regime: ``aligned``, ``irrelevant``, ``contradictory`` or ``undecided``.
    :param alpha: The correlation that it is taken from; None where it is not defined.
    :param addition: What theorem 1 says of ``base + first + lambda second``.
    :param negation: What theorem 2 says of forgetting either and keeping the other.
    """

    first: str
    second: str
    regime: str
    alpha: Estimate | None
    addition: Statement
    negation: Statement


def judge(first: str, second: str, alpha: Estimate | None, beta: float) -> Verdict:
    """Decide how two tasks relate: by the whole interval, not by the value in it.

    :param first: Name of one.
    :param second: Name of the other.
    :param alpha: Their correlation.
    :param beta: Of theorem 1, assumed.
    """
    regime = _regime(alpha)
    return Verdict(first, second, regime, alpha, _addition(second, regime, alpha, beta), _negation(regime, alpha))


def _regime(alpha: Estimate | None) -> str:
    if alpha is None or alpha.low is None or alpha.high is None:
        return "undecided"
    if alpha.low > 0 and alpha.value > MARGIN:
        return "aligned"
    if alpha.high < 0 and alpha.value < -MARGIN:
        return "contradictory"
    if alpha.low > -2 * MARGIN and alpha.high < 2 * MARGIN and abs(alpha.value) <= MARGIN:
        return "irrelevant"
    return "undecided"


def _addition(second: str, regime: str, alpha: Estimate | None, beta: float) -> Statement:
    assumptions = (_PROVED, _STANDS, f"beta = {beta:g}, unknown for a real model")
    if alpha is None or alpha.low is None or alpha.high is None:
        return Statement("nothing: the correlation has no interval", ())
    if regime == "contradictory":
        return Statement("no coefficient serves both tasks (theorem 1)", assumptions)
    if regime == "undecided" and alpha.low < 0:
        return Statement("nothing: the interval does not tell the sign", ())
    least, high = (max(1 - one + beta, 0.0) for one in (max(alpha.value, 0.0), max(alpha.low, 0.0)))
    text = f"both tasks are served by {second} with a coefficient of {least:.2f} or more"
    if high > least:
        text += f" ({high:.2f} at the lower end of the interval)"
    return Statement(f"{text} (theorem 1)", assumptions)


def _negation(regime: str, alpha: Estimate | None) -> Statement:
    assumptions = (_PROVED, _STANDS)
    hidden = "the constant of Theta is 1, which nobody knows"
    if regime == "irrelevant":
        return Statement("one is forgotten and the other kept by any negative coefficient (theorem 2)", assumptions)
    if regime == "contradictory" and alpha is not None:
        least = alpha.value**-2
        return Statement(
            f"one is forgotten and the other kept by a negative coefficient down to about -{least:.2f}; what is "
            "forgotten is turned into its opposite (theorem 2)",
            (*assumptions, hidden),
        )
    if regime == "aligned":
        return Statement(
            "what is forgotten takes the other with it: no coefficient forgets the one and keeps all of the other, "
            "unless the alignment is small (theorem 2)",
            assumptions,
        )
    return Statement("nothing: the regime is not decided", ())
