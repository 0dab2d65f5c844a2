"""Models measured row by row: each as it is or edited in memory, beside a reference; then all numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.units import Units
from taskarith.data.load import DataSet
from taskarith.errors import CheckpointError, DataError, MismatchError, ReadError, TaskarithError
from taskarith.evaluation.benchmarks import Part
from taskarith.evaluation.lm_eval import Tasks, run_tasks
from taskarith.evaluation.measure import Reference, keep_reference, measure
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded, find_model, open_model, parse_dtype
from taskarith.evaluation.questions import Asked, ask
from taskarith.evaluation.read_records import arrange, read_rows
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import Scores, make_scores
from taskarith.models.device import choose_device
from taskarith.models.runtime import Runtime
from taskarith.progress import SILENT, Listener

__all__ = ["Evaluation", "Row", "RowPlan", "Rows", "ask_models", "measure_rows", "row_name"]

_ALL = "all"
"""Names the records of a row among its units."""


@dataclass(frozen=True)
class Evaluation:
    """Models on texts.

    :param scores: All numbers; the rows are the models, or one model at each alpha, in the order given, then the
        retain model.
    :param records: What they were made from, as in ``records.jsonl``.
    """

    scores: Scores
    records: list[Record] = field(repr=False)


@dataclass(frozen=True)
class Row:
    """One row of the scores, to be measured.

    :param name: Of the row.
    :param ready: Makes the model as the row says; called where it is not measured already.
    :param more: What tells it from other rows that may have had its name in an earlier run.
    :param is_needed: Whether nothing can be said without it.
    """

    name: str
    ready: Callable[[], object]
    more: str = ""
    is_needed: bool = False


Rows = Callable[[Asked, Mapping[str, Sequence[Record]], Units], Iterator[Row]]
"""Gives the rows of a model one after another; it is told the records of the rows before, and where to keep more."""


@dataclass(frozen=True)
class RowPlan:
    """The rows to measure.

    :param of_model: Gives the rows of each model but the retain model, which is measured as it is.
    :param count: How many rows there will be at most.
    :param retain: Name of the retain model.
    :param needs_retain: Whether nothing can be said without the retain model.
    :param edited: Whether ``of_model`` edits the models, for what is said of dtypes.
    """

    of_model: Rows
    count: int
    retain: str | None = None
    needs_retain: bool = False
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
    """Open models and tokenise all texts for each: what can be wrong with them is found before one is loaded.

    :param models: Their names, the one that others are compared with first.
    :raises TaskarithError: As ``open_model`` and ``ask`` do.
    """
    found: list[Asked] = []
    device, dtype = _own_device(choose_device(runtime.device), team), parse_dtype(runtime.dtype)
    for name in models:
        if team.size > 1:  # one of them downloads or dequantises it
            team.by_first(lambda name=name: bool(find_model(name, listener)))
        loaded = open_model(name, device, dtype, listener, trust_remote_code=runtime.trust_remote_code)
        questions = ask(loaded, texts, measurement, benchmark, listener)
        same = next((one.questions for one in found if one.questions == questions), questions)
        found.append(Asked(loaded, same))
        if same.samples != found[0].questions.samples or same.prompts != found[0].questions.prompts:
            listener.note(f"{name} tokenises these texts otherwise than {models[0]}: losses per token do not compare")
    return found


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

    A row that cannot be measured is left out, and named in the remarks of the scores.

    :param asked: From ``ask_models``; the retain model, if there is one, first.
    :param plan: The rows.
    :param tasks: Of lm-eval, to run on every row.
    :param units: What of it is finished, and where to keep more.
    :raises CheckpointError, MismatchError: No row can be measured.
    """
    work = _Work(tasks, measurement, plan, listener, team, units or Units())
    for one in asked:
        work.measure_model(one)
        one.loaded.unload()
    return work.evaluation()


def row_name(model: str, alpha: float) -> str:
    """Return the name of the row of a model edited in memory: ``MODEL alpha=0.5``."""
    short = f"{alpha:g}"
    return f"{model} alpha={short if float(short) == alpha else repr(alpha)}"


@dataclass
class _Work:
    """An evaluation under way: what all rows share, and what the rows so far have given.

    :param reference: What later rows are compared with: the retain model's row, or else the first one.
    :param failed: Why rows could not be measured.
    :param gaps: Row, then task of lm-eval, to why it could not be run.
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
        """Measure every row of a model, the retain model being the first one."""
        is_retain = asked.loaded.name == self.plan.retain
        _remark(asked.loaded, self.plan.edited and not is_retain, self.listener)
        as_it_is = [Row(asked.loaded.name, lambda: asked.loaded.model, is_needed=self.plan.needs_retain)]
        for row in as_it_is if is_retain else self.plan.of_model(asked, self.rows, self.units):
            try:
                self._measure_row(asked, row)
            except (CheckpointError, MismatchError) as error:  # it is about this row: the others are not lost with it
                if row.is_needed or isinstance(error, ReadError):
                    raise
                self.failed[row.name] = error
                self.listener.note(f"{row.name} is left out: {error.message}")

    def evaluation(self) -> Evaluation:
        """Return all rows, the retain model's last."""
        if not self.rows:
            raise next(iter(self.failed.values()))
        last = {self.plan.retain: self.rows.pop(self.plan.retain)} if self.plan.retain in self.rows else {}
        records = [record for found in (self.rows | last).values() for record in found]
        sheets = {sheet.model: sheet for sheet in arrange(records, "the evaluation")}
        scores = make_scores(sheets, {row: sheets[self.plan.retain] for row in sheets if self.plan.retain in sheets})
        missing = {row: why | self.gaps.get(row, {}) for row, why in scores.missing.items()}
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
            about = asked, self.measurement, row.name
            self.reference = keep_reference(*about, on_share, self.team)
        self.rows[row.name] = done
        on_share(1.0)

    def _measure(
        self, asked: Asked, row: str, units: Units, on_share: Callable[[float], None], *, keep: bool
    ) -> list[Record]:
        start, reference, begun = time.perf_counter(), self.reference, bool(units.names())
        if reference and (why := reference.mismatch(asked.loaded, asked.questions)):
            self.listener.note(f"KL and agreement of {row} are missing: {why}")
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
            self.listener.note(f"{row}: {tokens:,} tokens, in part by an earlier run")
        elif tokens:
            self.listener.note(f"{row}: {tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} a second)")
        if self.tasks is not None:
            for task in self.tasks.names:
                alone = replace(self.tasks, names=(task,))
                records += _others(self._run_task(asked.loaded, row, alone, units), records)
        if row not in self.gaps:
            units.put(_ALL, records)
        return records

    def _run_task(self, loaded: Loaded, row: str, task: Tasks, units: Units) -> list[Record]:
        """Run a task of lm-eval in the first process, for all of them; one that cannot be run is a gap."""
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
        """Tell whether rows are still to be measured."""
        return self.team.by_first(
            lambda: sum(name.endswith(f" | {_ALL}") for name in self.units.names()) < self.plan.count
        )

    def _together(self, act: Callable[[], object]) -> None:
        """Do in every process what may fail in one: then it fails in all, and none waits for another."""
        failure = None
        try:
            act()
        except TaskarithError as error:
            failure = error
        if failed := next((one for one in self.team.gather(failure) if one is not None), None):
            raise failed


def _others(found: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """Leave out records that are there: a task may be one of a group that was run before it."""
    keys = ("kind", "text", "sample")
    there = {tuple(record[key] for key in keys) for record in records}
    return [record for record in found if tuple(record[key] for key in keys) not in there]


def _own_device(device: torch.device, team: Team) -> torch.device:
    """Give each of several processes on a machine its own GPU."""
    if team.size == 1 or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _remark(loaded: Loaded, edited: bool, listener: Listener) -> None:
    """Say where the model is evaluated, and in which dtype if it is not that of its files."""
    used, stored = (str(dtype).removeprefix("torch.") for dtype in (loaded.dtype, loaded.stored_dtype))
    if used == stored:
        listener.note(f"{loaded.name}: on {loaded.device} in {used}")
        return
    rounding = f"; an edit written by apply is rounded to {stored}" if edited else ""
    listener.note(f"{loaded.name}: on {loaded.device} in {used}, though its files are {stored}{rounding}")
