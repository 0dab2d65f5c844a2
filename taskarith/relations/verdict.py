"""Verdicts on pairs of tasks (aligned, irrelevant or contradictory) and what the theorems allow.

Theorems of Li et al., "When is Task Vector Provably Effective for Model Editing?", ICLR 2025, for models
``base + tau_1 + lambda tau_2``. They are proved for a one-layer transformer with hinge loss on data with one feature
per task; alpha is the inner product of the two tasks' features. ``Theta`` hides constants that are unknown for a real
model, and beta is small but unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["MARGIN", "Evidence", "Statement", "Verdict", "coefficient_of", "judge"]

MARGIN = 0.2
"""Correlations between plus and minus this are irrelevant; the paper's irrelevant digits have 0.16."""

_STANDS = "the measured correlation stands for the inner product of the tasks' features"
_PROVED = "proved for a one-layer transformer with hinge loss"


@dataclass(frozen=True)
class Statement:
    """A conclusion and its assumptions.

    :param text: The conclusion.
    :param assumptions: What it assumes.
    """

    text: str
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """Measurements of two tasks besides their correlation: changes of mean losses in nats, negative if they fall.

    :param own: Change of each task by its own vector.
    :param cross: Change of the second task by the first vector, and of the first task by the second.
    :param learned: Whether each vector was trained on its test set, by its record; None if nothing is recorded.
    :param together: Change of both tasks by the first vector plus the multiple of the second that theorem 1 requires;
        None if that is unknown.
    """

    own: tuple[Estimate, Estimate]
    cross: tuple[Estimate, Estimate]
    learned: tuple[bool | None, bool | None]
    together: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Verdict:
    """The relation of two tasks.

    :param first: Name of the first task.
    :param second: Name of the second task.
    :param regime: ``aligned``, ``irrelevant``, ``contradictory`` or ``undecided``.
    :param alpha: The correlation it is based on; None if undefined.
    :param addition: What theorem 1 says about ``base + first + lambda second``.
    :param negation: What theorem 2 says about forgetting either and keeping the other.
    :param reason: Why it is undecided; empty otherwise.
    """

    first: str
    second: str
    regime: str
    alpha: Estimate | None
    addition: Statement
    negation: Statement
    reason: str = ""


def judge(first: str, second: str, alpha: Estimate | None, beta: float, evidence: Evidence) -> Verdict:
    """Decide how two tasks relate, by the whole interval rather than the value, and never against the losses.

    The interval of an aligned pair lies above ``MARGIN``, that of a contradictory one below its negative, that of an
    irrelevant one between them: an equivalence test, so it need not contain 0. Anything else is undecided, as are pairs
    whose losses contradict the correlation, or that were not measured on the texts their vectors were trained on.

    :param first: Name of the first task.
    :param second: Name of the second task.
    :param alpha: Their correlation.
    :param beta: Assumed beta of theorem 1.
    :param evidence: Further measurements.
    """
    regime, reason = _regime(alpha), ""
    for objection in _objections((first, second), regime, alpha, evidence):
        regime, reason = "undecided", objection
        break
    addition = _addition((first, second), regime, alpha, beta, evidence)
    return Verdict(first, second, regime, alpha, addition, _negation(regime, alpha), reason)


def coefficient_of(alpha: Estimate | None, beta: float) -> float | None:
    """Return the smallest coefficient of the second vector by theorem 1; None if alpha has no interval."""
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
    """Yield objections to a verdict, the most important first."""
    for name, learned in zip(names, evidence.learned, strict=True):
        if not learned:
            fault = "was not trained" if learned is False else "is not recorded as trained"
            yield f"the vector of {name} {fault} on its test set"
    for name, own in zip(names, evidence.own, strict=True):
        if not _falls(own):
            yield f"the vector of {name} is not shown to lower the loss of its own test set ({_nats(own)})"
    for name, other, change in zip(names, reversed(names), evidence.cross, strict=True):
        if regime == "aligned" and _rises(change):
            yield f"the vector of {name} raises the loss of {other} despite the positive correlation ({_nats(change)})"
        if regime == "contradictory" and _falls(change):
            yield f"the vector of {name} lowers the loss of {other} despite the negative correlation ({_nats(change)})"
    if regime == "undecided":
        yield _unclear(alpha)


def _unclear(alpha: Estimate | None) -> str:
    if alpha is None or alpha.low is None or alpha.high is None:
        return "the correlation has no interval"
    return f"its interval contains {MARGIN:g} or -{MARGIN:g}"


def _addition(
    names: tuple[str, str], regime: str, alpha: Estimate | None, beta: float, evidence: Evidence
) -> Statement:
    assumptions = (_PROVED, _STANDS, f"beta = {beta:g}, unknown for a real model")
    if regime == "contradictory":
        return Statement("no coefficient serves both tasks (theorem 1)", assumptions)
    least = coefficient_of(alpha, beta)
    if regime == "undecided" or alpha is None or alpha.low is None or least is None:
        return Statement("nothing: the regime is undecided", ())
    text = f"{names[1]} needs a coefficient of at least {least:.2f}"
    high = max(1 - max(alpha.low, 0.0) + beta, 0.0)
    if high > least:
        text += f" ({high:.2f} at the lower end of the interval)"
    text += " (theorem 1)"
    return Statement(text + _measured(names, least, evidence), assumptions)


def _measured(names: tuple[str, str], least: float, evidence: Evidence) -> str:
    """Describe the effect of the sum of both vectors at that coefficient."""
    if evidence.together is None:
        return ""
    serves = "both losses fall" if all(map(_falls, evidence.together)) else "the losses are not both shown to fall"
    changes = (f"{name} {_nats(change)}" for name, change in zip(names, evidence.together, strict=True))
    return f"; at {least:.2f} {serves}: {'; '.join(changes)}"


def _negation(regime: str, alpha: Estimate | None) -> Statement:
    assumptions = (_PROVED, _STANDS)
    hidden = "the constant of Theta is taken as 1, but is unknown"
    if regime == "irrelevant":
        return Statement("any negative coefficient forgets one and keeps the other (theorem 2)", assumptions)
    if regime == "contradictory" and alpha is not None:
        least = alpha.value**-2
        return Statement(
            f"a negative coefficient down to about -{least:.2f} forgets one and keeps the other; the forgotten task is "
            "inverted (theorem 2)",
            (*assumptions, hidden),
        )
    if regime == "aligned":
        return Statement(
            "forgetting one also harms the other: no coefficient forgets one and fully keeps the other, unless the "
            "alignment is small (theorem 2)",
            assumptions,
        )
    return Statement("nothing: the regime is undecided", ())


def _falls(change: Estimate) -> bool:
    return change.high is not None and change.high < 0


def _rises(change: Estimate) -> bool:
    return change.low is not None and change.low > 0


def _nats(change: Estimate) -> str:
    if change.low is None or change.high is None:
        return f"{change.value:+.2f} nats"
    return f"{change.value:+.2f} nats, {change.low:+.2f} to {change.high:+.2f}"
