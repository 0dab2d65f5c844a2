"""From the records of attacked models to what each attack brings back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from taskarith.attacks.shares import TELLING, Level, Share, difference, interval_of, level, share
from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import RATE, Bounds, Estimate, mean, ratio
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
    "before - edited is not apart from 0 by its 95% interval, or nothing was taken: lacking says which",
    "beyond": "(attacked - retain under the same attack) / (before - edited): what the attack brings back and "
    "does not give to a model that never knew; null likewise",
    "recovered_interval": "95%, Fieller's, samples or prompts paired between models; null where fewer than 3 "
    "differ; beyond_interval likewise",
    "n": "samples (of loss and accuracy) or prompts that the number rests on",
    "strongest": "of all attacks with a beyond from enough samples or prompts, but what was given to the attacker; its "
    "interval holds for all of them at once (Bonferroni), and so for the one that is chosen",
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
    :param recovered_interval: That of ``recovered``.
    :param beyond_interval: That of ``beyond``.
    :param lacking: Why there are no shares, although there is a model before the edit.
    :param n: Samples or prompts that it rests on.
    :param moments: What gives the interval of ``beyond`` at another level; not among the plain values.
    """

    value: float
    retain: float | None
    recovered: float | None
    beyond: float | None
    interval: tuple[float, float] | None = None
    retain_interval: tuple[float, float] | None = None
    recovered_interval: tuple[float, float] | None = None
    beyond_interval: tuple[float, float] | None = None
    lacking: str | None = None
    n: int = 0
    moments: Share | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        return {name: value for name, value in vars(self).items() if name != "moments"}


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
        cells = {metric: cell.to_json() for metric, cell in self.cells.items()}
        return {**asdict(replace(self, cells={})), "cells": cells}


@dataclass(frozen=True)
class _Series:
    """What one model got in one metric: a sum and a count of each sample or prompt, by its name."""

    names: tuple[str, ...]
    sums: tuple[float, ...]
    counts: tuple[float, ...]
    bounds: Bounds

    @property
    def estimate(self) -> Estimate:
        return ratio(self.sums, self.counts, self.bounds)

    @property
    def level(self) -> Level:
        return level(self.names, self.sums, self.counts)


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
    plain = {role: _series(record for record in kept if _is(record, role, ("forget",))) for role in ROLES}
    attacked = {
        role: [record for record in kept if _is(record, f"{role} {state}".strip(), texts)] for role in (EDITED, RETAIN)
    }
    values, never = _series(attacked[EDITED]), _series(attacked[RETAIN])
    return Outcome(
        attack=attack,
        name=name,
        view="held out" if without else "all",
        steps=steps,
        before={metric: found.estimate.value for metric, found in plain[BEFORE].items()},
        cells={
            metric: _cell(metric, value, never.get(metric), plain[EDITED].get(metric), plain[BEFORE].get(metric))
            for metric, value in values.items()
        },
        prompts=len({_group(record) for record in attacked[EDITED] if record["kind"] == "continuation"}),
    )


def numbers(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of one model in one state; what has no records is left out.

    Continuations of one group are tries at the same thing, of which the best counts.

    :raises DataError: A loss is not finite.
    """
    return {metric: found.estimate.value for metric, found in _series(records).items()}


def _series(records: Iterable[Mapping[str, Any]]) -> dict[str, _Series]:
    given = list(records)
    losses = [record for record in given if record["kind"] == "loss"]
    found: dict[str, _Series] = {}
    if losses:
        names = tuple(str(record["sample"]) for record in losses)
        nll, correct, tokens = (tuple(float(record[key]) for record in losses) for key in ("nll", "correct", "tokens"))
        if not math.isfinite(math.fsum(nll)):
            raise DataError(f"a loss of {losses[0]['model']} is not finite", "Check the model with taskarith eval.")
        found["loss"] = _Series(names, nll, tokens, (0.0, math.inf))
        found["accuracy"] = _Series(names, correct, tokens, RATE)
    continuations = [record for record in given if record["kind"] == "continuation"]
    for metric in METRICS[2:]:
        best: dict[str, float] = {}
        for record in continuations:
            if metric in record:
                best[_group(record)] = max(best.get(_group(record), 0.0), float(record[metric]))
        if best:
            found[metric] = _Series(tuple(best), tuple(best.values()), (1.0,) * len(best), RATE)
    return found


def _is(record: Record, model: str, texts: Sequence[str]) -> bool:
    return record["model"] == model and record["text"] in texts


def _group(record: Mapping[str, Any]) -> str:
    return str(record.get("group", record["sample"]))


def _cell(metric: str, found: _Series, never: _Series | None, edited: _Series | None, before: _Series | None) -> Cell:
    value, other = found.estimate, None if never is None else never.estimate
    cell = Cell(
        value.value,
        None if other is None else other.value,
        None,
        None,
        interval=_interval(value),
        retain_interval=None if other is None else _interval(other),
        n=value.n,
    )
    if edited is None or before is None:
        return cell
    gap = difference(before.level, edited.level)
    if lacking := _lacking(metric, gap):
        return replace(cell, lacking=lacking)
    back = share(difference(found.level, edited.level), gap)
    beyond = None if never is None else share(difference(found.level, never.level), gap)
    return replace(
        cell,
        recovered=back.value,
        beyond=None if beyond is None else beyond.value,
        recovered_interval=back.interval(),
        beyond_interval=None if beyond is None else beyond.interval(),
        moments=beyond,
    )


def _lacking(metric: str, gap: Level) -> str | None:
    """Say why nothing can be a share of what the edit took: it took nothing, or it is not known to."""
    if gap.value >= 0 if metric == "loss" else gap.value <= 0:
        return "before the edit the model knows the text no better than after it"
    interval = interval_of(gap)
    if interval is not None and gap.differing < TELLING and metric not in METRICS[:2]:
        interval = _interval(mean(list(gap.sums.values()), (-1.0, 1.0)))  # equal scores of a few prompts tell little
    if interval is None:
        return "from a single sample it is not known whether the edit took anything"
    if interval[0] <= 0 <= interval[1]:
        low, high = interval
        return f"before - edited is {gap.value:.3f} ({low:.3f} to {high:.3f}), which is not apart from 0"
    return None


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)
