"""Models measured row by row: each loaded once, as it is or edited in memory, beside a reference; then all numbers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taskarith.checkpoints.team import ALONE, Team
from taskarith.errors import MismatchError, TaskarithError, UsageError
from taskarith.evaluation.benchmarks import Part
from taskarith.evaluation.general import Tasks, run_tasks
from taskarith.evaluation.measure import Questions, Reference, Settings, ask, measure
from taskarith.evaluation.models import Loaded, find_model, free_memory, model_record, open_model
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import Scores, make_scores
from taskarith.evaluation.stored import arrange
from taskarith.progress import SILENT, Listener
from taskarith.training.data import DataSet

__all__ = ["Evaluation", "Rows", "editable", "evaluate_rows", "row_name", "write_results"]


@dataclass(frozen=True)
class Evaluation:
    """Models on texts.

    :param scores: All numbers; the rows are the models, or one model at each alpha, in the order given, then the
        retain model.
    :param records: What they were made from, as in ``records.jsonl``.
    """

    scores: Scores
    records: list[Record] = field(repr=False)


Rows = Callable[[Loaded, Questions, Mapping[str, Sequence[Record]]], Iterator[str]]
"""Gives the names of a model's rows one after another; while one is looked at, the model is as it says.

It is told what the model will be asked, and the records of the rows that are measured already.
"""


def evaluate_rows(
    models: Sequence[str],
    texts: Mapping[str, DataSet],
    settings: Settings,
    rows: Rows,
    count: int,
    *,
    benchmark: Sequence[Part] = (),
    tasks: Tasks | None = None,
    seed: int = 42,
    retain: str | None = None,
    edited: bool = False,
    device: torch.device,
    dtype: torch.dtype | None,
    described: bool = False,
    trust_remote_code: bool = False,
    team: Team = ALONE,
    listener: Listener = SILENT,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Load each model once and measure all its rows; see ``evaluate``.

    :param rows: Of each model but the retain model, which is measured first, as it is.
    :param count: How many rows there will be at most.
    :param edited: Whether ``rows`` edits the models, for what is said of dtypes.
    :param described: Return a record of each model's origin too.
    """
    work = _Work(texts, benchmark, tasks, settings, seed, retain, rows, edited, listener, team, count)
    place, origins = _own_device(device, team), []
    for name in ([retain] if retain else []) + list(models):
        _find_once(name, team, listener)
        loaded = open_model(name, place, dtype, listener, trust_remote_code=trust_remote_code)
        questions = work.measure_model(loaded)
        if described and team.is_first:
            origins.append({**model_record(loaded), "token_fingerprints": questions.fingerprints()})
        del loaded
        free_memory()
    return work.evaluation(), origins


def write_results(folder: Path, results: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write ``results.json`` and ``records.jsonl`` into a folder."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "records.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def row_name(model: str, alpha: float) -> str:
    """Return the name of the row of a model edited in memory: ``MODEL alpha=0.5``."""
    short = f"{alpha:g}"
    return f"{model} alpha={short if float(short) == alpha else repr(alpha)}"


def editable(loaded: Loaded) -> str:
    """Return the folder of a model that is to be edited in memory.

    :raises UsageError: It is an adapter.
    """
    if loaded.adapter is not None:
        raise UsageError(
            f"{loaded.name} is an adapter, which cannot be edited in memory",
            f"Name its base as the model and add the adapter: --add {loaded.name}",
        )
    return str(loaded.resolved.path)


@dataclass
class _Work:
    """An evaluation under way: what all rows share, and what the rows so far have given.

    :param count: Rows that there will be.
    :param reference: What later rows are compared with: the retain model's row, or else the first one.
    """

    texts: Mapping[str, DataSet]
    benchmark: Sequence[Part]
    tasks: Tasks | None
    settings: Settings
    seed: int
    retain: str | None
    of_model: Rows
    edited: bool
    listener: Listener
    team: Team
    count: int
    rows: dict[str, list[Record]] = field(default_factory=dict)
    reference: Reference | None = None

    def measure_model(self, loaded: Loaded) -> Questions:
        """Measure every row of a model, the retain model being the first one; return what it was asked."""
        questions = ask(loaded, self.texts, self.settings, self.benchmark, self.listener)
        is_retain = loaded.name == self.retain
        _remark(loaded, self.edited and not is_retain, self.listener)
        if self.reference is not None:
            self._compare(loaded, questions, self.reference)
        for row in [loaded.name] if is_retain else self.of_model(loaded, questions, self.rows):
            self._measure_row(loaded, questions, row)
        return questions

    def evaluation(self) -> Evaluation:
        """Return all rows, the retain model's last."""
        last = {self.retain: self.rows.pop(self.retain)} if self.retain in self.rows else {}
        records = [record for found in (self.rows | last).values() for record in found]
        sheets = {sheet.model: sheet for sheet in arrange(records, "the evaluation")}
        return Evaluation(make_scores(sheets, {row: sheets[self.retain] for row in sheets if self.retain}), records)

    def _compare(self, loaded: Loaded, questions: Questions, reference: Reference) -> None:
        """Say, or refuse, what does not compare with the reference."""
        if questions != reference.questions:
            self.listener.note(
                f"{loaded.name} tokenises these texts otherwise than {reference.name}: losses per token do not compare"
            )
        if self.retain is not None and questions.ids != reference.questions.ids:
            raise MismatchError(
                f"{self.retain} cuts these texts into other samples than {loaded.name}: their tokenizers differ",
                "Give rows (jsonl) instead of plain text: each is one sample; or leave --retain out.",
            )
        if why := reference.mismatch(loaded, questions):
            self.listener.note(f"KL and agreement of {loaded.name} are missing: {why}")

    def _measure_row(self, loaded: Loaded, questions: Questions, row: str) -> None:
        start, number = time.perf_counter(), len(self.rows)

        def on_share(share: float) -> None:
            self.listener.progress(f"evaluating | {row}", number + share, self.count)

        keep = self.reference is None and self.count > 1
        records, kept = measure(
            loaded,
            questions,
            self.settings,
            row,
            on_share,
            reference=self.reference,
            keep=keep,
            team=self.team,
        )
        self.rows[row], self.reference = records, self.reference or kept
        on_share(1.0)
        seconds, tokens = time.perf_counter() - start, questions.cost(self.settings.continuation_tokens)
        if tokens:
            self.listener.note(f"{row}: {tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} a second)")
        if self.tasks is not None:
            self.rows[row] = records + self._run_tasks(loaded, row, self.tasks)

    def _run_tasks(self, loaded: Loaded, row: str, tasks: Tasks) -> list[Record]:
        """Run lm-eval's tasks in the first process, for all of them."""
        records, failure, start = [], None, time.perf_counter()
        if self.team.is_first:
            try:
                records = run_tasks(loaded, tasks, row, self.settings, self.seed)
            except TaskarithError as error:
                failure = error
        told, failure = self.team.gather((records, failure))[0]
        if failure is not None:
            raise failure
        self.listener.note(f"{row}: {', '.join(tasks.names)} by lm-eval in {time.perf_counter() - start:.1f} s")
        return told


def _own_device(device: torch.device, team: Team) -> torch.device:
    """Give each of several processes on a machine its own GPU."""
    if team.size == 1 or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _find_once(name: str, team: Team, listener: Listener) -> None:
    """Let the first process download or dequantise a model before the others look for it."""
    if team.size > 1:
        failure = None
        if team.is_first:
            try:
                find_model(name, listener)
            except TaskarithError as error:
                failure = error
        if failure := next((each for each in team.gather(failure) if each is not None), None):
            raise failure


def _remark(loaded: Loaded, edited: bool, listener: Listener) -> None:
    """Say where the model is evaluated, and in which dtype if it is not that of its files."""
    used, stored = (str(dtype).removeprefix("torch.") for dtype in (loaded.model.dtype, loaded.stored_dtype))
    if used == stored:
        listener.note(f"{loaded.name}: on {loaded.model.device} in {used}")
        return
    rounding = f"; an edit written by apply is rounded to {stored}" if edited else ""
    listener.note(f"{loaded.name}: on {loaded.model.device} in {used}, though its files are {stored}{rounding}")
