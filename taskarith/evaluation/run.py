"""Measurement of models row by row, unedited or edited in memory, against a reference; then all numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.units import Units
from taskarith.data.load import DataSet
from taskarith.errors import CheckpointError, DataError, MismatchError, ReadError, TaskarithError
from taskarith.evaluation.benchmarks import Part
from taskarith.evaluation.lm_eval import Tasks, run_tasks
from taskarith.evaluation.measure import Reference, keep_reference, measure
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded, open_together
from taskarith.evaluation.questions import Asked, ask
from taskarith.evaluation.read_records import arrange, read_rows
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import Scores, make_scores
from taskarith.models.runtime import Runtime
from taskarith.progress import SILENT, Listener
from taskarith.tidy import TidyResult, TidyRow

__all__ = ["Evaluation", "Row", "RowPlan", "Rows", "ask_models", "measure_rows", "row_name"]

_ALL = "all"
"""Name of the unit that holds all records of a row."""


@dataclass(frozen=True, repr=False)
class Evaluation(TidyResult):
    """The result of an evaluation.

    :param scores: All numbers; rows are the models, or one model at each alpha, in the given order, then the retain
        model.
    :param records: The records they are calculated from, as in ``records.jsonl``.
    """

    scores: Scores
    records: list[Record] = field(repr=False)

    def _brief(self) -> dict[str, object]:
        return {"models": self.scores.models, "texts": self.scores.texts, "records": len(self.records)}

    def tidy(self) -> list[TidyRow]:
        """Return every number with its interval, as ``scores`` does."""
        return self.scores.tidy()

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain JSON values, without the records."""
        return self.scores.to_json()


@dataclass(frozen=True)
class Row:
    """A row of the scores to measure.

    :param name: Its name.
    :param ready: Prepares the model for the row; called unless it is measured already.
    :param more: Distinguishes it from rows with the same name in an earlier run.
    :param is_needed: Whether a failure of the row fails the evaluation.
    """

    name: str
    ready: Callable[[], object]
    more: str = ""
    is_needed: bool = False


Rows = Callable[[Asked, Mapping[str, Sequence[Record]], Units], Iterator[Row]]
"""Yields the rows of a model, given the records of earlier rows and the storage of finished pieces."""


@dataclass(frozen=True)
class RowPlan:
    """The rows to measure.

    :param of_model: Yields the rows of each model except the reference model, which is measured unedited.
    :param count: Maximum number of rows.
    :param reference: Name of the reference model.
    :param needs_reference: Whether a failure of the reference model fails the evaluation.
    :param edited: Whether ``of_model`` edits the models, for notes on dtypes.
    """

    of_model: Rows
    count: int
    reference: str | None = None
    needs_reference: bool = False
    edited: bool = False


def ask_models(
    models: Sequence[str],
    texts: Mapping[str, DataSet],
    measurement: Measurement,
    runtime: Runtime,
    *,
    benchmark: Sequence[Part] = (),
    team: Team = ALONE,
    listener: Listener = SILENT,
) -> list[Asked]:
    """Open models and tokenise all texts for each, to find faults before any model is loaded.

    :param models: Their names, the reference first.
    :raises TaskarithError: As for ``open_together`` and ``ask``.
    """
    asked: list[Asked] = []
    for name in models:
        loaded = open_together(name, runtime, listener, team)
        questions = ask(loaded, texts, measurement, benchmark, listener)
        same = next((other.questions for other in asked if other.questions == questions), questions)
        asked.append(Asked(loaded, same))
        if same.samples != asked[0].questions.samples or same.prompts != asked[0].questions.prompts:
            listener.note(
                f"{name} tokenises these texts differently from {models[0]}: losses per token are not comparable"
            )
    return asked


def measure_rows(
    asked: Sequence[Asked],
    measurement: Measurement,
    plan: RowPlan,
    *,
    tasks: Tasks | None = None,
    team: Team = ALONE,
    units: Units | None = None,
    listener: Listener = SILENT,
) -> Evaluation:
    """Load each model once and measure all its rows; see ``evaluate``.

    A row that cannot be measured is left out and named in the remarks of the scores.

    :param asked: Result of ``ask_models``; the reference model, if any, comes first.
    :param plan: The rows.
    :param tasks: lm-eval tasks to run on every row.
    :param units: Storage of finished pieces.
    :raises CheckpointError, MismatchError: No row can be measured.
    """
    work = _Work(tasks, measurement, plan, listener, team, units or Units())
    for model in asked:
        work.measure_model(model)
        model.loaded.unload()
    return work.evaluation()


def row_name(model: str, alpha: float) -> str:
    """Return the name of the row of a model edited in memory: ``MODEL alpha=0.5``."""
    short = f"{alpha:g}"
    return f"{model} alpha={short if float(short) == alpha else repr(alpha)}"


@dataclass
class _Work:
    """An evaluation in progress: what all rows share, and the results so far.

    :param reference: The reference of later rows: its row, or else the first one.
    :param failed: Errors of rows that could not be measured.
    :param gaps: By row and lm-eval task, why the task could not be run.
    """

    tasks: Tasks | None
    measurement: Measurement
    plan: RowPlan
    listener: Listener
    team: Team
    units: Units
    rows: dict[str, list[Record]] = field(default_factory=dict)
    reference: Reference | None = None
    failed: dict[str, TaskarithError] = field(default_factory=dict)
    gaps: dict[str, dict[str, str]] = field(default_factory=dict)

    def measure_model(self, asked: Asked) -> None:
        """Measure every row of a model; the reference model comes first."""
        is_reference = asked.loaded.name == self.plan.reference
        _remark(asked.loaded, self.plan.edited and not is_reference, self.listener)
        unedited = [Row(asked.loaded.name, lambda: asked.loaded.model, is_needed=self.plan.needs_reference)]
        for row in unedited if is_reference else self.plan.of_model(asked, self.rows, self.units):
            try:
                self._measure_row(asked, row)
            except (CheckpointError, MismatchError) as error:  # it concerns this row only
                if row.is_needed or isinstance(error, ReadError):
                    raise
                self.failed[row.name] = error
                self.listener.note(f"{row.name} is left out: {error.message}")

    def evaluation(self) -> Evaluation:
        """Return all rows, the reference model's last."""
        if not self.rows:
            raise next(iter(self.failed.values()))
        last = {self.plan.reference: self.rows.pop(self.plan.reference)} if self.plan.reference in self.rows else {}
        records = [record for row in (self.rows | last).values() for record in row]
        tables = {table.model: table for table in arrange(records, "the evaluation")}
        reference = tables.get(self.plan.reference or "")
        scores = make_scores(tables, {} if reference is None else dict.fromkeys(tables, reference))
        missing = {row: reasons | self.gaps.get(row, {}) for row, reasons in scores.missing.items()}
        left_out = [f"{row} is left out: {error.message}" for row, error in self.failed.items()]
        return Evaluation(replace(scores, missing=missing, remarks=(*scores.remarks, *left_out)), records)

    def _measure_row(self, asked: Asked, row: Row) -> None:
        number, units = len(self.rows) + len(self.failed), self.units.within(f"{row.name}{row.more}")

        def on_share(share: float) -> None:
            self.listener.progress(f"evaluating | {row.name}", number + share, self.plan.count)

        done = self.team.by_first(lambda: units.get(_ALL, partial(read_rows, row.name)))
        is_reference = self.reference is None and self.plan.count > 1 and self._is_unfinished()
        if done is None or is_reference:
            self._together(row.ready)
        if done is None:
            done = self._measure(asked, row.name, units, on_share, keep=is_reference)
        elif is_reference:
            self.reference = keep_reference(asked, self.measurement, row.name, on_share, self.team)
        self.rows[row.name] = done
        on_share(1.0)

    def _measure(
        self, asked: Asked, row: str, units: Units, on_share: Callable[[float], None], *, keep: bool
    ) -> list[Record]:
        start, reference, begun = time.perf_counter(), self.reference, bool(units.names())
        if reference and (reason := reference.mismatch(asked.loaded, asked.questions)):
            self.listener.note(f"KL and agreement of {row} are missing: {reason}")
            reference = None
        records, kept = measure(
            asked,
            self.measurement,
            row,
            on_share,
            reference=reference,
            keep=keep,
            team=self.team,
            units=units,
        )
        self.reference = self.reference or kept
        seconds, tokens = time.perf_counter() - start, asked.questions.cost(self.measurement.continuation_tokens)
        if begun:
            self.listener.note(f"{row}: {tokens:,} tokens, partly by an earlier run")
        elif tokens:
            self.listener.note(f"{row}: {tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} a second)")
        if self.tasks is not None:
            for task in self.tasks.names:
                alone = replace(self.tasks, names=(task,))
                records += _new_records(self._run_task(asked.loaded, row, alone, units), records)
        if row not in self.gaps:
            units.put(_ALL, records)
        return records

    def _run_task(self, loaded: Loaded, row: str, task: Tasks, units: Units) -> list[Record]:
        """Run an lm-eval task in the first process, for all; note in ``gaps`` if it fails."""
        start, (name,) = time.perf_counter(), task.names
        known = self.team.by_first(lambda: units.get(f"task {name}", partial(read_rows, row)))
        if known is not None:
            return known
        try:
            records = self.team.by_first(lambda: run_tasks(loaded, task, row, self.measurement))
        except DataError as error:
            self.gaps.setdefault(row, {})[name] = error.message
            self.listener.note(f"{name} is left out: {error.message}")
            return []
        self.listener.note(f"{row}: {name} by lm-eval in {time.perf_counter() - start:.1f} s")
        units.put(f"task {name}", records)
        return records

    def _is_unfinished(self) -> bool:
        """Tell whether any row is still unmeasured."""
        return self.team.by_first(
            lambda: sum(name.endswith(f" | {_ALL}") for name in self.units.names()) < self.plan.count
        )

    def _together(self, act: Callable[[], object]) -> None:
        """Run a function in every process; if it fails in one, fail in all, so that none waits."""
        failure = None
        try:
            act()
        except TaskarithError as error:
            failure = error
        if failed := next((error for error in self.team.gather(failure) if error is not None), None):
            raise failed


def _new_records(added: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """Drop added records that exist already: a task may be part of a group that ran before."""
    keys = ("kind", "text", "sample")
    known = {tuple(record[key] for key in keys) for record in records}
    return [record for record in added if tuple(record[key] for key in keys) not in known]


def _remark(loaded: Loaded, edited: bool, listener: Listener) -> None:
    """Note a model's device and dtype, and the files' dtype if it differs."""
    used, stored = (str(dtype).removeprefix("torch.") for dtype in (loaded.dtype, loaded.stored_dtype))
    if used == stored:
        listener.note(f"{loaded.name}: on {loaded.place} in {used}")
        return
    rounding = f"; an edit written by apply is rounded to {stored}" if edited else ""
    listener.note(f"{loaded.name}: on {loaded.place} in {used}, while its files are {stored}{rounding}")
