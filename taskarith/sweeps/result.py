"""The result of a sweep: the edit that a rule chooses from the records of all edits, and its recipe."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taskarith.edit.edit import Edit
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import Record
from taskarith.evaluation.run import Evaluation
from taskarith.evaluation.score import Scores, make_scores, tidy_row
from taskarith.sweeps.reasons import explain, lacking_effect
from taskarith.sweeps.remaining import measure_remaining
from taskarith.sweeps.row import SweepRow
from taskarith.sweeps.rule import Rule, TextScore, find_cliff, pareto_front
from taskarith.sweeps.split import Halves, deal, mean_loss, point_of
from taskarith.sweeps.trial import Trial
from taskarith.tidy import TidyResult, TidyRow

__all__ = ["Sweep", "conclude", "leveled", "row_halves"]


@dataclass(frozen=True, repr=False)
class Sweep(TidyResult):
    """The result of a sweep.

    :param scores: Scores of all rows on all samples, as from ``evaluate``.
    :param rows: The edits, the unedited model first.
    :param aim: The rule.
    :param chosen: Index of the row chosen on the validation half, or None.
    :param reason: Why, in a sentence.
    :param heldout: Scores of the unedited model, the chosen row and the reference on the held-out half.
    :param holds: Whether the chosen row also meets the rule heldout.
    :param missed: By which numbers it does not, in words.
    :param cliff: Index of the first row at a cliff; None without one, or in a search.
    :param front: Indices of the rows on the Pareto front, ordered by forgetting.
    :param recipe: The chosen edit as a recipe for ``apply --config``.
    :param halves: The samples used to choose and to report.
    :param reference: Row of the model that never knew the forget sets.
    :param names: Names of the coefficients of a search.
    :param trials: Trials of a search.
    :param records: Records of every sample and row.
    """

    scores: Scores
    rows: tuple[SweepRow, ...]
    aim: Rule
    chosen: int | None
    reason: str
    heldout: Scores
    holds: bool | None
    missed: tuple[str, ...]
    cliff: int | None
    front: tuple[int, ...]
    recipe: dict[str, Any] | None
    halves: Halves
    reference: str | None
    names: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    records: list[Record] = field(default_factory=list, repr=False)

    def _brief(self) -> dict[str, object]:
        return {"alpha": self.alpha, "reason": self.reason, "alphas": [row.alpha for row in self.rows]}

    def tidy(self) -> list[TidyRow]:
        """Return every number of every edit, with the edit's alpha and its means over forget and retain sets."""
        means: list[TidyRow] = []
        for row in self.rows:
            means += [
                TidyRow(row.name, "", "alpha", row.alpha),
                tidy_row(row.name, "", "mean loss of forget sets", row.forget),
                tidy_row(row.name, "", "mean loss of retain sets", row.keep),
                tidy_row(row.name, "", "rise of the loss of retain sets", row.rise),
            ]
        return [*means, *self.scores.tidy()]

    @property
    def alpha(self) -> float | None:
        """The recommended alpha."""
        return None if self.chosen is None else self.rows[self.chosen].alpha

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        heldout = self.heldout.to_json()
        return {
            "rule": self.aim.rule,
            "level": None if self.aim.level is None else {text: vars(score) for text, score in self.aim.level.items()},
            "budget": self.aim.budget,
            "recommended": None if self.chosen is None else self.rows[self.chosen].to_json(),
            "reason": self.reason,
            "recipe": self.recipe,
            "holds_on_held_out": self.holds,
            "missed_on_held_out": self.missed,
            "held_out": {"models": heldout["models"], "scores": heldout["scores"]},
            "cliff": None if self.cliff is None else self.rows[self.cliff].alpha,
            "front": [self.rows[number].name for number in self.front],
            "rows": [row.to_json() for row in self.rows],
            "trials": [trial.to_json(self.names) for trial in self.trials],
            "validation": sorted(map(list, self.halves.validation)),
            **self.scores.to_json(),
        }


def conclude(
    evaluation: Evaluation,
    edits: Mapping[str, Edit],
    aim: Rule,
    reference: str | None,
    names: Sequence[str] = (),
    trials: Sequence[Trial] = (),
) -> Sweep:
    """Choose among the measured edits.

    :param edits: The edit of each row, the unedited model first; rows that could not be measured are left out.
    :param aim: The rule, without the level of the reference.
    :param reference: Name of the reference's row.
    :param names: Names of the coefficients of a search.
    :param trials: Trials of a search.
    """
    by_row: dict[str, list[Record]] = {}
    for record in evaluation.records:
        by_row.setdefault(record["model"], []).append(record)
    unedited = by_row[next(iter(edits))]
    halves = row_halves(unedited)
    known = None if reference is None else by_row[reference]
    level = aim.level if known is None else known
    measured = {name: edit for name, edit in edits.items() if name in by_row}
    rows = tuple(_row(name, edit, by_row[name], unedited, level, halves) for name, edit in measured.items())
    whole = leveled(aim, known, halves.choosing)
    reached = whole.choose([row.choosing for row in rows], rows[0].choosing)
    lacking = lacking_effect(whole, rows, reached, [by_row[row.name] for row in rows])
    chosen = None if lacking else _shown(whole, rows)
    missed: list[str] = []
    if chosen is not None:
        heldout = [point_of(rows[i].alpha, halves.reporting(by_row[rows[i].name])) for i in (chosen, 0)]
        missed = leveled(aim, known, halves.reporting).missed(heldout[0], heldout[1])
    shown = [rows[0].name, *([rows[chosen].name] if chosen else []), *([reference] if reference else [])]
    heldout_records = [record for name in shown for record in halves.reporting(by_row[name])]
    return Sweep(
        scores=evaluation.scores,
        rows=rows,
        aim=whole,
        chosen=chosen,
        reason=lacking or explain(whole, rows, chosen, reached, reference, search=bool(trials)),
        heldout=make_scores({table.model: table for table in arrange(heldout_records, "the held-out half")}, {}),
        holds=None if chosen is None else not missed,
        missed=tuple(missed),
        cliff=None if trials else _cliff(rows, by_row),
        front=tuple(pareto_front([(row.forget.value, row.keep.value) for row in rows])),
        recipe=None if chosen is None else rows[chosen].edit.located().to_recipe(),
        halves=halves,
        reference=reference,
        names=tuple(names),
        trials=tuple(trials),
        records=evaluation.records,
    )


def row_halves(records: Sequence[Record]) -> Halves:
    """Split the samples of one row's records into halves."""
    kinds = ("loss", "continuation")
    return deal([(r["kind"], r["text"], r["sample"]) for r in records if r["kind"] in kinds])


def leveled(aim: Rule, reference: Sequence[Record] | None, half: Callable[[Sequence[Record]], list[Record]]) -> Rule:
    """Set a rule's level to the reference's on one half of the samples."""
    return aim if reference is None else replace(aim, level=point_of(0.0, half(reference)).forget)


def _shown(aim: Rule, rows: Sequence[SweepRow]) -> int | None:
    """Return the index of the row that the rule chooses; all samples must show that a level is reached."""
    candidates = [number for number, row in enumerate(rows) if aim.budget is not None or row.is_shown]
    chosen = aim.choose([rows[number].choosing for number in candidates], rows[0].choosing)
    return None if chosen is None else candidates[chosen]


def _row(
    name: str,
    edit: Edit,
    records: Sequence[Record],
    unedited: Sequence[Record],
    level: Sequence[Record] | Mapping[str, TextScore] | None,
    halves: Halves,
) -> SweepRow:
    return SweepRow(
        name,
        edit,
        point_of(edit.alpha, halves.choosing(records)),
        mean_loss(records, forgotten=True),
        mean_loss(records, forgotten=False),
        mean_loss(records, unedited, forgotten=False),
        {} if level is None else measure_remaining(records, unedited, level),
    )


def _cliff(rows: Sequence[SweepRow], by_row: Mapping[str, Sequence[Record]]) -> int | None:
    """Find a cliff among alphas from 0 in the direction of the largest one."""
    sign = 1.0 if max(row.alpha for row in rows) > 0 else -1.0
    order = sorted((i for i, row in enumerate(rows) if sign * row.alpha >= 0), key=lambda i: sign * rows[i].alpha)
    steps = [
        mean_loss(by_row[rows[after].name], by_row[rows[before].name], forgotten=False)
        for before, after in itertools.pairwise(order)
    ]
    cliff = find_cliff([rows[i].alpha for i in order], [rows[i].keep.value for i in order], steps)
    return None if cliff is None else order[cliff]
