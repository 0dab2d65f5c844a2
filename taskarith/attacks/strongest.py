"""The strongest of many attacks, with an interval that knows it was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskarith.attacks.recovery import Cell, Outcome
from taskarith.evaluation.metrics.intervals import TAIL

__all__ = ["LEAST", "Strongest", "is_attack", "strongest"]

LEAST = 8
"""With fewer samples or prompts no attack is called the strongest: a maximum over a handful is mostly chance."""


@dataclass(frozen=True)
class Strongest:
    """The attack that brings back most beyond what a model that never knew gives, by one metric.

    Intervals of all attacks hold at once with 95%: each has 95% / attacks beyond its ends (Bonferroni). The strongest
    is the one whose interval begins highest.

    :param metric: By which.
    :param attacks: That were compared.
    :param few: Attacks left out, from fewer than ``LEAST`` samples or prompts.
    :param most: Samples or prompts of the attack that has most of them.
    :param outcome: Of the strongest; None where nothing could be compared.
    :param beyond: Its share.
    :param interval: That holds for all of them at once.
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
        """Whether it brings back more than nothing, by its interval."""
        return self.interval is not None and self.interval[0] > 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        named = ("attack", "name", "view", "steps")
        what = self.outcome and {name: getattr(self.outcome, name) for name in named}
        return {name: value for name, value in vars(self).items() if name != "outcome"} | {"outcome": what}


def is_attack(found: Outcome) -> bool:
    """Tell whether an outcome is of an attack, on what the attacker was not given."""
    return found.attack != "none" and not (found.attack == "relearn" and (found.view == "all" or not found.steps))


def strongest(outcomes: Sequence[Outcome], metric: str) -> Strongest | None:
    """Return the strongest attack by one metric; None where no attack has a share beyond a model that never knew."""
    cells = [(one, one.cells[metric]) for one in outcomes if is_attack(one) and metric in one.cells]
    found = [(one, cell) for one, cell in cells if cell.moments is not None]
    if not found:
        return None
    enough = [(one, cell) for one, cell in found if cell.n >= LEAST]
    counts = (metric, len(enough), len(found) - len(enough), max(cell.n for _, cell in found))
    rows = [(*pair, _together(pair[1], len(enough))) for pair in enough]
    known = [(one, cell, interval) for one, cell, interval in rows if interval is not None]
    if not known:
        return Strongest(*counts)
    one, cell, interval = max(known, key=lambda row: row[2][0])
    return Strongest(*counts, outcome=one, beyond=cell.beyond, interval=interval)


def _together(cell: Cell, attacks: int) -> tuple[float, float] | None:
    return None if cell.moments is None else cell.moments.interval(TAIL / attacks)
