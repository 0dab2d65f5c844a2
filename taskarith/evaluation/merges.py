"""Normalised accuracy of merges from records: accuracy relative to the model fine-tuned for each task."""

from __future__ import annotations

from collections.abc import Mapping

from taskarith.errors import DataError
from taskarith.evaluation.gaps import Collected, Missing, Numbers
from taskarith.evaluation.metrics.merging import Answered, normalised_accuracy
from taskarith.evaluation.read_records import RecordTable, check_same_samples
from taskarith.evaluation.records import Record, column

__all__ = ["merge_numbers"]

_NAME = "normalised_accuracy"
_METRICS = ("acc", "exact_match")
"""Metrics of lm-eval that count as accuracy; the first one present is used."""


def merge_numbers(table: RecordTable, finetuned: Mapping[str, RecordTable]) -> tuple[Numbers, Missing]:
    """Return the normalised accuracy of each task, the mean of several, and why others are missing.

    :param finetuned: For each text or lm-eval task, the records of the model fine-tuned for it.
    """
    collected = Collected()
    tasks = {
        text: collected.attempt(f"{_NAME} of {text}", lambda text=text, beside=beside: _answered(table, beside, text))
        for text, beside in finetuned.items()
    }
    answered = {text: task for text, task in tasks.items() if task is not None}
    for text, task in answered.items():
        collected.add(f"{_NAME} of {text}", lambda task=task: normalised_accuracy([task]))
    if len(tasks) > 1 and len(answered) == len(tasks):
        collected.add(_NAME, lambda: normalised_accuracy(list(answered.values())))
    return collected.numbers, collected.missing


def _answered(table: RecordTable, finetuned: RecordTable, text: str) -> Answered:
    kind = "task" if table.of("task", text) else "loss"
    here, there = table.of(kind, text), finetuned.of(kind, text)
    if absent := [each.model for each, records in ((table, here), (finetuned, there)) if not records]:
        raise DataError(f"{absent[0]} has no records of {text}", "Evaluate it on that task, too.")
    check_same_samples(table, finetuned, kind, text)
    if kind == "loss":
        return Answered(column(here, "correct"), column(there, "correct"), column(here, "tokens"))
    metric = _metric(text, [*here.values(), *there.values()])
    sides = ([record["values"][metric] for record in records.values()] for records in (here, there))
    return Answered(*sides, [1.0] * len(here))


def _metric(text: str, records: list[Record]) -> str:
    """Return the first accuracy metric that all samples have, with any answer filter."""
    names = [name for name in records[0]["values"] if all(name in record["values"] for record in records)]
    matching = [name for metric in _METRICS for name in names if name.partition(",")[0] == metric]
    if not matching:
        raise DataError(
            f"the records of {text} contain no {' or '.join(_METRICS)}", "Use a task with one of these metrics."
        )
    return matching[0]
