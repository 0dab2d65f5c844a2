"""Sentences on why an edit was chosen, or none, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from taskarith.evaluation.records import Record
from taskarith.sweeps.row import SweepRow
from taskarith.sweeps.rule import Rule
from taskarith.sweeps.split import mean_loss

__all__ = ["explain", "lacking_effect", "unconfirmed"]


def explain(
    aim: Rule, rows: Sequence[SweepRow], chosen: int | None, reached: int | None, reference: str | None, *, search: bool
) -> str:
    """Explain by which rule a row was chosen, or why none was.

    :param rows: All rows, the unedited model first.
    :param chosen: Index of the chosen row.
    :param reached: Index of the row that the rule would choose if there were enough samples to show it.
    :param reference: Name of a model that never knew the texts.
    :param search: Whether coefficients were searched for.
    """
    if aim.rule is None:
        return "nothing is recommended without a rule: give --reference MODEL, --target or --budget"
    if aim.rule == "budget":
        rule = f"the most forgetting while the mean retain loss rises by at most {aim.budget:g} nats"
        if chosen is None:
            return f"not found: {rule}"
        return rule if search or not _is_at_end(rows, chosen) else f"{rule}; {_try_larger(rows[chosen].alpha)}"
    level = f"the level of {reference}" if reference else "the target"
    if chosen is not None:
        rule = f"the lowest retain loss at {level}" if search else f"the smallest alpha that reaches {level}"
        return f"{rule}{_left(rows[chosen]) if rows[chosen].alpha else ''}"
    if reached is not None:
        return (
            f"{_name(rows[reached], search=search)} reaches {level} on average, but the samples do not show that "
            f"most is forgotten{_left(rows[reached])}. Give more text, a smaller --block-size, or more --prompts"
        )
    best = max(range(len(rows)), key=lambda i: rows[i].forget.value)
    closest = f"no edit reaches {level}; the closest is {_name(rows[best], search=search)}{_left(rows[best])}"
    return closest if search or not _is_at_end(rows, best) else f"{closest}. {_try_larger(rows[best].alpha)}"


def unconfirmed(missed: Sequence[str]) -> str:
    """Say that a choice does not meet the rule on the other samples, and by which numbers, if these are known."""
    numbers = f" ({'; '.join(missed)})" if missed else ""
    return f"samples that were not used to choose, it does not hold{numbers}: give more text, or larger alphas"


def lacking_effect(
    aim: Rule, rows: Sequence[SweepRow], chosen: int | None, records: Sequence[Sequence[Record]]
) -> str | None:
    """Explain that no edit within a budget forgets significantly, by all samples; None if one does.

    :param records: Records of each row; the first row is unedited.
    """
    if aim.budget is None or chosen is None:
        return None
    gain = mean_loss(records[chosen], records[0], forgotten=True)
    if gain.value > 0 and (gain.low is None or gain.low > 0):
        return None
    interval = "" if gain.low is None else f", 95% interval {gain.low:.3f} to {gain.high:.3f}"
    return (
        f"nothing is recommended: no edit within the budget of {aim.budget:g} nats forgets significantly "
        f"(the most is {gain.value:.3f} nats at alpha {rows[chosen].alpha:g}{interval})"
    )


def _name(row: SweepRow, *, search: bool) -> str:
    return row.name if search else f"alpha {row.alpha:g}"


def _left(row: SweepRow) -> str:
    """Return how much of each text remains, if that was measured."""
    parts = [f"of {text} {left}" for text, left in row.remaining.items()]
    return f" (left, 95% intervals: {'; '.join(parts)})" if parts else ""


def _is_at_end(rows: Sequence[SweepRow], number: int) -> bool:
    """Tell whether a row has the largest alpha of its sign, beyond which nothing was measured."""
    alpha = rows[number].alpha
    return alpha != 0 and all(abs(row.alpha) <= abs(alpha) for row in rows if row.alpha * alpha > 0)


def _try_larger(alpha: float) -> str:
    return f"{alpha:g} is the largest alpha tried: try larger ones, as in --alpha {alpha:g}:{4 * alpha:g}:{alpha / 2:g}"
