"""The strongest of many attacks, with an interval that accounts for the selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskarith.attacks.recovery import Cell, Outcome
from taskarith.evaluation.metrics.intervals import TAIL

__all__ = ["LEAST", "Strongest", "is_attack", "strongest"]

LEAST = 8
"""Minimum samples or prompts of a strongest attack: a maximum over fewer is mostly chance."""


@dataclass(frozen=True)
class Strongest:
    """The attack that recovers most, by one metric, beyond a model that never knew the text.

    The intervals of all attacks hold jointly with 95%: each leaves out 5% / attacks (Bonferroni). The strongest is the
    one whose interval starts highest.

    :param metric: The metric.
    :param attacks: Number of attacks compared.
    :param few: Number of attacks left out, with fewer than ``LEAST`` samples or prompts.
    :param most: Largest number of samples or prompts of an attack.
    :param outcome: Outcome of the strongest attack; None if nothing could be compared.
    :param beyond: Its share.
    :param interval: Its joint interval.
    """

    metric: str
    attacks: int
    few: int
    most: int
    outcome: Outcome | None = None
    beyond: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def is_apart(self) -> bool:
        """Whether its interval excludes 0, so that it recovers something."""
        return self.interval is not None and self.interval[0] > 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        named = ("attack", "name", "view", "steps")
        outcome = self.outcome and {name: getattr(self.outcome, name) for name in named}
        return {name: value for name, value in vars(self).items() if name != "outcome"} | {"outcome": outcome}


def is_attack(outcome: Outcome) -> bool:
    """Tell whether an outcome is of an attack, on text not given to the attacker."""
    return outcome.attack != "none" and not (
        outcome.attack == "relearn" and (outcome.view == "all" or not outcome.steps)
    )


def strongest(outcomes: Sequence[Outcome], metric: str) -> Strongest | None:
    """Return the strongest attack by one metric; None if no attack has a share beyond a model that never knew."""
    cells = [(outcome, outcome.cells[metric]) for outcome in outcomes if is_attack(outcome) and metric in outcome.cells]
    shared = [(outcome, cell) for outcome, cell in cells if cell.moments is not None]
    if not shared:
        return None
    enough = [(outcome, cell) for outcome, cell in shared if cell.n >= LEAST]
    counts = (metric, len(enough), len(shared) - len(enough), max(cell.n for _, cell in shared))
    rows = [(*pair, _together(pair[1], len(enough))) for pair in enough]
    known = [(outcome, cell, interval) for outcome, cell, interval in rows if interval is not None]
    if not known:
        return Strongest(*counts)
    outcome, cell, interval = max(known, key=lambda row: row[2][0])
    return Strongest(*counts, outcome=outcome, beyond=cell.beyond, interval=interval)


def _together(cell: Cell, attacks: int) -> tuple[float, float] | None:
    return None if cell.moments is None else cell.moments.interval(TAIL / attacks)
