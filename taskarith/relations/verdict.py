"""Aligned, irrelevant or contradictory, and what the theorems then allow.

Theorems of Li et al., "When is Task Vector Provably Effective for Model Editing?", ICLR 2025, for models
``base + tau_1 + lambda tau_2``. They are proved for a one-layer transformer with hinge loss on data with one feature a
task; alpha is the inner product of the two tasks' features. ``Theta`` hides constants that nobody knows for a real
model, and beta is small but unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["MARGIN", "Evidence", "Statement", "Verdict", "coefficient_of", "judge"]

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
class Evidence:
    """What was measured of two tasks beside their correlation: changes of mean losses in nats, below 0 where they fall.

    :param own: Of each task by its own vector.
    :param cross: Of the second task by the first vector, and of the first task by the second.
    :param learned: Whether each test set is recorded as what its vector was trained on; None where nothing is recorded.
    :param together: Of both tasks by the first vector and as much of the second as theorem 1 asks for; None where that
        is not known.
    """

    own: tuple[Estimate, Estimate]
    cross: tuple[Estimate, Estimate]
    learned: tuple[bool | None, bool | None]
    together: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Verdict:
    """How two tasks relate.

    :param first: Name of one.
    :param second: Name of the other.
    :param regime: ``aligned``, ``irrelevant``, ``contradictory`` or ``undecided``.
    :param alpha: The correlation that it is taken from; None where it is not defined.
    :param addition: What theorem 1 says of ``base + first + lambda second``.
    :param negation: What theorem 2 says of forgetting either and keeping the other.
    :param reason: Why it is undecided; empty where it is not.
    """

    first: str
    second: str
    regime: str
    alpha: Estimate | None
    addition: Statement
    negation: Statement
    reason: str = ""


def judge(first: str, second: str, alpha: Estimate | None, beta: float, evidence: Evidence) -> Verdict:
    """Decide how two tasks relate: by the whole interval, not by the value in it, and never against the losses.

    The interval of an aligned pair lies above ``MARGIN``, that of a contradictory one below its negative, that of an
    irrelevant one between them: a test of equivalence, so it may leave out 0. Anything else is undecided, as is a pair
    whose losses say otherwise, and one that was not measured on the texts that its vectors were trained on.

    :param first: Name of one.
    :param second: Name of the other.
    :param alpha: Their correlation.
    :param beta: Of theorem 1, assumed.
    :param evidence: What else was measured.
    """
    regime, reason = _regime(alpha), ""
    for objection in _objections((first, second), regime, alpha, evidence):
        regime, reason = "undecided", objection
        break
    addition = _addition((first, second), regime, alpha, beta, evidence)
    return Verdict(first, second, regime, alpha, addition, _negation(regime, alpha), reason)


def coefficient_of(alpha: Estimate | None, beta: float) -> float | None:
    """Return the least coefficient of the second vector that theorem 1 asks for; None where alpha has no interval."""
    if alpha is None or alpha.low is None:
        return None
    return max(1 - max(alpha.value, 0.0) + beta, 0.0)


def _regime(alpha: Estimate | None) -> str:
    if alpha is None or alpha.low is None or alpha.high is None:
        return "undecided"
    if alpha.low > MARGIN:
        return "aligned"
    if alpha.high < -MARGIN:
        return "contradictory"
    return "irrelevant" if alpha.low >= -MARGIN and alpha.high <= MARGIN else "undecided"


def _objections(names: tuple[str, str], regime: str, alpha: Estimate | None, evidence: Evidence) -> Iterator[str]:
    """Give what speaks against a verdict, the weightiest first."""
    for name, learned in zip(names, evidence.learned, strict=True):
        if not learned:
            what = "is not what" if learned is False else "is not recorded as what"
            yield f"the test set of {name} {what} its vector was trained on"
    for name, own in zip(names, evidence.own, strict=True):
        if not _falls(own):
            yield f"the vector of {name} is not shown to lower the loss of its own test set ({_nats(own)})"
    for name, other, change in zip(names, reversed(names), evidence.cross, strict=True):
        if regime == "aligned" and _rises(change):
            yield f"the vector of {name} raises the loss of {other}, however alike its tokens ({_nats(change)})"
        if regime == "contradictory" and _falls(change):
            yield f"the vector of {name} lowers the loss of {other}, however unlike its tokens ({_nats(change)})"
    if regime == "undecided":
        yield _unclear(alpha)


def _unclear(alpha: Estimate | None) -> str:
    if alpha is None or alpha.low is None or alpha.high is None:
        return "the correlation has no interval"
    return f"its interval reaches over {MARGIN:g} or -{MARGIN:g}"


def _addition(
    names: tuple[str, str], regime: str, alpha: Estimate | None, beta: float, evidence: Evidence
) -> Statement:
    assumptions = (_PROVED, _STANDS, f"beta = {beta:g}, unknown for a real model")
    if regime == "contradictory":
        return Statement("no coefficient serves both tasks (theorem 1)", assumptions)
    least = coefficient_of(alpha, beta)
    if regime == "undecided" or alpha is None or alpha.low is None or least is None:
        return Statement("nothing: the regime is not decided", ())
    text = f"{names[1]} is to have a coefficient of {least:.2f} or more"
    high = max(1 - max(alpha.low, 0.0) + beta, 0.0)
    if high > least:
        text += f" ({high:.2f} at the lower end of the interval)"
    text += " (theorem 1)"
    return Statement(text + _measured(names, least, evidence), assumptions)


def _measured(names: tuple[str, str], least: float, evidence: Evidence) -> str:
    """Say what the sum of both vectors does at that coefficient."""
    if evidence.together is None:
        return ""
    serves = "both losses fall" if all(map(_falls, evidence.together)) else "not both losses are shown to fall"
    changes = (f"{name} {_nats(one)}" for name, one in zip(names, evidence.together, strict=True))
    return f"; at {least:.2f} {serves}: {'; '.join(changes)}"


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


def _falls(change: Estimate) -> bool:
    return change.high is not None and change.high < 0


def _rises(change: Estimate) -> bool:
    return change.low is not None and change.low > 0


def _nats(change: Estimate) -> str:
    if change.low is None or change.high is None:
        return f"{change.value:+.2f} nats"
    return f"{change.value:+.2f} nats, {change.low:+.2f} to {change.high:+.2f}"
