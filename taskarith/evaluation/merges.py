"""Normalised accuracy of merges from records: each task beside the model that was fine-tuned for it."""

from __future__ import annotations

from collections.abc import Mapping

from taskarith.errors import DataError
from taskarith.evaluation.gaps import Found, Missing, Numbers
from taskarith.evaluation.metrics.merging import Answered, normalised_accuracy
from taskarith.evaluation.read_records import RecordTable, check_same_samples
from taskarith.evaluation.records import Record, column

__all__ = ["merge_numbers"]

_NAME = "normalised_accuracy"
_METRICS = ("acc", "exact_match")
"""Of lm-eval's tasks, what counts as accuracy; the first that there is."""


def merge_numbers(sheet: RecordTable, finetuned: Mapping[str, RecordTable]) -> tuple[Numbers, Missing]:
    """Return the normalised accuracy of each task, and if there are several their mean; and why others are missing.

    :param finetuned: Names of texts or of tasks of lm-eval to the records of the model that was fine-tuned for each.
    """
    found = Found()
    tasks = {
        text: found.attempt(f"{_NAME} of {text}", lambda text=text, beside=beside: _answered(sheet, beside, text))
        for text, beside in finetuned.items()
    }
    answered = {text: task for text, task in tasks.items() if task is not None}
    for text, task in answered.items():
        found.add(f"{_NAME} of {text}", lambda task=task: normalised_accuracy([task]))
    if len(tasks) > 1 and len(answered) == len(tasks):
        found.add(_NAME, lambda: normalised_accuracy(list(answered.values())))
    return found.numbers, found.missing


def _answered(sheet: RecordTable, finetuned: RecordTable, text: str) -> Answered:
    kind = "task" if sheet.of("task", text) else "loss"
    here, there = sheet.of(kind, text), finetuned.of(kind, text)
    if absent := [each.model for each, records in ((sheet, here), (finetuned, there)) if not records]:
        raise DataError(f"{absent[0]} has no records of {text}", "Evaluate it on that task too.")
    check_same_samples(sheet, finetuned, kind, text)
    if kind == "loss":
        return Answered(column(here, "correct"), column(there, "correct"), column(here, "tokens"))
    metric = _metric(text, [*here.values(), *there.values()])
    sides = ([record["values"][metric] for record in records.values()] for records in (here, there))
    return Answered(*sides, [1.0] * len(here))


def _metric(text: str, records: list[Record]) -> str:
    """Return the metric that all samples have: the first of its kind, whatever filter of answers it is for."""
    names = [name for name in records[0]["values"] if all(name in record["values"] for record in records)]
    found = [name for metric in _METRICS for name in names if name.partition(",")[0] == metric]
    if not found:
        raise DataError(f"the records of {text} have no {' or '.join(_METRICS)}", "Name a task that has one of them.")
    return found[0]
