"""From the records of attacked models to what each attack brings back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import RATE, Estimate, mean, ratio
from taskarith.evaluation.records import Record

__all__ = ["BEFORE", "CONVENTIONS", "EDITED", "METRICS", "RETAIN", "Cell", "Outcome", "numbers", "outcome"]

BEFORE, EDITED, RETAIN = "before", "edited", "retain"
ROLES = (BEFORE, EDITED, RETAIN)
"""What models are in records: the one before the edit, the edited one, and one that never knew the text."""

METRICS = ("loss", "accuracy", "rouge_l_f1", "rouge_l_recall", "verbatim", "exact_tokens")

CONVENTIONS = {
    "loss": "nats; the mean over all scored tokens, teacher-forced",
    "accuracy": "share of scored tokens that are the model's first choice, teacher-forced",
    "rouge_l_f1": "ROUGE-L F1 of continuations, mean over prompts; rouge_score's words, no stemming",
    "rouge_l_recall": "ROUGE-L recall of continuations, mean over prompts; rouge_score's words, no stemming",
    "verbatim": "share of prompts whose continuation equals the true one word for word",
    "exact_tokens": "share of the true continuation's tokens that are reproduced from its start without a mistake",
    "worst": "of each prompt the highest value among its rephrasings or draws, then the mean over prompts",
    "interval": "95%, over samples or prompts as independent: Student's t on the jackknife's standard error, of shares "
    "that hardly differ Clopper-Pearson too; retain_interval likewise",
    "recovered": "(attacked - edited) / (before - edited): 0 is nothing, 1 is all that the edit took away; null where "
    "the edit took nothing",
    "beyond": "(attacked - retain under the same attack) / (before - edited): what the attack brings back and "
    "does not give to a model that never knew",
}
"""What each number is, for whoever compares it with another tool's."""


@dataclass(frozen=True)
class Cell:
    """One metric of one attack.

    :param value: Of the attacked edited model.
    :param retain: Of the model that never knew under the same attack; None where there is none.
    :param recovered: Share of the gap between the edited model and the one before the edit that the attack closes.
    :param beyond: The same share of the gap by which it is above the model that never knew.
    :param interval: 95% interval of ``value``; None of a single sample.
    :param retain_interval: That of ``retain``.
    """

    value: float
    retain: float | None
    recovered: float | None
    beyond: float | None
    interval: tuple[float, float] | None = None
    retain_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Outcome:
    """What one attack does to one view of the forget text.

    :param attack: Of ``ATTACKS``, or ``none``.
    :param name: What was done, as in ``int4``.
    :param view: ``all`` of the text, or what was ``held out`` from the attacker.
    :param steps: Of relearning; 0 elsewhere.
    :param before: The metrics of the model before the edit in the same view, without an attack.
    :param cells: Metric to what became of it.
    :param prompts: Whose continuations count.
    """

    attack: str
    name: str
    view: str
    steps: int
    before: dict[str, float]
    cells: dict[str, Cell]
    prompts: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        return asdict(self)


def outcome(
    records: Iterable[Record],
    *,
    attack: str,
    name: str,
    state: str = "",
    texts: Sequence[str] = ("forget",),
    without: Collection[str] = (),
    steps: int = 0,
) -> Outcome:
    """Make what one attack brings back from the records of all models.

    :param records: Of all models without an attack, and under this one.
    :param attack: Which.
    :param name: What was done.
    :param state: What is after the role in the records of this attack, as in ``int4``; empty where weights are as ever.
    :param texts: Names of the attack's records; of a group that occurs in several, or several times, the best counts.
    :param without: Ids of samples and prompts that do not count.
    :param steps: Of relearning.
    """
    kept = [record for record in records if record["sample"] not in without]
    levels = {role: numbers(record for record in kept if _is(record, role, ("forget",))) for role in ROLES}
    attacked = {
        role: [record for record in kept if _is(record, f"{role} {state}".strip(), texts)] for role in (EDITED, RETAIN)
    }
    values, never = _estimates(attacked[EDITED]), _estimates(attacked[RETAIN])
    return Outcome(
        attack=attack,
        name=name,
        view="held out" if without else "all",
        steps=steps,
        before=levels[BEFORE],
        cells={
            metric: _cell(metric, value, never.get(metric), levels[EDITED].get(metric), levels[BEFORE].get(metric))
            for metric, value in values.items()
        },
        prompts=len({_group(record) for record in attacked[EDITED] if record["kind"] == "continuation"}),
    )


def numbers(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of one model in one state; what has no records is left out.

    Continuations of one group are tries at the same thing, of which the best counts.

    :raises DataError: A loss is not finite.
    """
    return {metric: found.value for metric, found in _estimates(records).items()}


def _estimates(records: Iterable[Mapping[str, Any]]) -> dict[str, Estimate]:
    given = list(records)
    losses = [record for record in given if record["kind"] == "loss"]
    found: dict[str, Estimate] = {}
    if losses:
        nll, correct, tokens = ([float(record[key]) for record in losses] for key in ("nll", "correct", "tokens"))
        if not math.isfinite(math.fsum(nll)):
            raise DataError(f"a loss of {losses[0]['model']} is not finite", "Check the model with taskarith eval.")
        found = {"loss": ratio(nll, tokens, (0.0, math.inf)), "accuracy": ratio(correct, tokens, RATE)}
    continuations = [record for record in given if record["kind"] == "continuation"]
    for metric in METRICS[2:]:
        best: dict[str, float] = {}
        for record in continuations:
            if metric in record:
                best[_group(record)] = max(best.get(_group(record), 0.0), float(record[metric]))
        if best:
            found[metric] = mean(list(best.values()), RATE)
    return found


def _is(record: Record, model: str, texts: Sequence[str]) -> bool:
    return record["model"] == model and record["text"] in texts


def _group(record: Mapping[str, Any]) -> str:
    return str(record.get("group", record["sample"]))


def _cell(metric: str, found: Estimate, never: Estimate | None, edited: float | None, before: float | None) -> Cell:
    value, other = found.value, None if never is None else never.value
    intervals = {"interval": _interval(found), "retain_interval": None if never is None else _interval(never)}
    if edited is None or before is None or (before >= edited if metric == "loss" else before <= edited):
        return Cell(value, other, None, None, **intervals)  # the edit took nothing away: nothing can come back
    gap = before - edited
    beyond = None if other is None else (value - other) / gap + 0.0
    return Cell(value, other, (value - edited) / gap + 0.0, beyond, **intervals)


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)
