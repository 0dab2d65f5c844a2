"""Why an edit was chosen, or none: in a sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from taskarith.evaluation.records import Record
from taskarith.sweeps.row import SweepRow
from taskarith.sweeps.rule import Rule
from taskarith.sweeps.split import mean_loss

__all__ = ["explain", "lacking_effect"]


def explain(
    aim: Rule, rows: Sequence[SweepRow], chosen: int | None, reached: int | None, reference: str | None, *, search: bool
) -> str:
    """Say by what rule a row was chosen, or why none was.

    :param rows: The unedited model first.
    :param chosen: Number of the row.
    :param reached: Number of the row that the rule would choose if its samples were enough to show it.
    :param reference: Name of a model that never knew the texts.
    :param search: Whether coefficients were searched for.
    """
    if aim.rule is None:
        return "nothing is recommended without an aim: name a --reference MODEL, a --target or a --budget"
    if aim.rule == "budget":
        what = f"the most forgetting while the mean loss of what is kept rises by at most {aim.budget:g} nats"
        if chosen is None:
            return f"not found: {what}"
        return what if search or not _is_at_end(rows, chosen) else f"{what}; {_further(rows[chosen].alpha)}"
    level = f"the level of {reference}" if reference else "the target"
    if chosen is not None:
        what = f"the least loss of what is kept at {level}" if search else f"the least alpha that reaches {level}"
        return f"{what}{_left(rows[chosen]) if rows[chosen].alpha else ''}"
    if reached is not None:
        return (
            f"by its means {_name(rows[reached], search=search)} reaches {level}, but the samples do not show that "
            f"most is forgotten{_left(rows[reached])}. Give more text, a smaller --block-size, or more --prompts"
        )
    best = max(range(len(rows)), key=lambda i: rows[i].forget.value)
    nearest = f"no edit reaches {level}; nearest is {_name(rows[best], search=search)}{_left(rows[best])}"
    return nearest if search or not _is_at_end(rows, best) else f"{nearest}. {_further(rows[best].alpha)}"


def lacking_effect(
    aim: Rule, rows: Sequence[SweepRow], chosen: int | None, records: Sequence[Sequence[Record]]
) -> str | None:
    """Say where the most forgetting within a budget is none beyond its uncertainty, by all samples.

    :param records: Of each row; the first row is unedited.
    """
    if aim.budget is None or chosen is None:
        return None
    gain = mean_loss(records[chosen], records[0], forgotten=True)
    if gain.value > 0 and (gain.low is None or gain.low > 0):
        return None
    interval = "" if gain.low is None else f", 95% interval {gain.low:.3f} to {gain.high:.3f}"
    return (
        f"nothing is recommended: within the budget of {aim.budget:g} nats no edit forgets beyond its uncertainty "
        f"(the most is {gain.value:.3f} nats at alpha {rows[chosen].alpha:g}{interval})"
    )


def _name(row: SweepRow, *, search: bool) -> str:
    return row.name if search else f"alpha {row.alpha:g}"


def _left(row: SweepRow) -> str:
    """Return how much of each text is left, if that was measured."""
    parts = [f"of {text} {left}" for text, left in row.remaining.items()]
    return f" (left, 95% intervals: {'; '.join(parts)})" if parts else ""


def _is_at_end(rows: Sequence[SweepRow], number: int) -> bool:
    """Tell whether a row has the largest alpha of its sign: what would be beyond is not known."""
    alpha = rows[number].alpha
    return alpha != 0 and all(abs(row.alpha) <= abs(alpha) for row in rows if row.alpha * alpha > 0)


def _further(alpha: float) -> str:
    return (
        f"{alpha:g} is the last alpha that was tried: go further, as in --alpha {alpha:g}:{4 * alpha:g}:{alpha / 2:g}"
    )
