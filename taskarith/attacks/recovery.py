"""What each attack recovers, from the records of attacked models."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from taskarith.attacks.shares import TELLING, Level, Share, difference, interval_of, level, share
from taskarith.errors import DataError
from taskarith.evaluation.metrics.intervals import RATE, Bounds, Estimate, mean, ratio
from taskarith.evaluation.records import Record
from taskarith.tidy import TidyRow

__all__ = ["BEFORE", "CONVENTIONS", "EDITED", "METRICS", "RETAIN", "Cell", "Outcome", "numbers", "outcome"]

BEFORE, EDITED, RETAIN = "before", "edited", "retain"
ROLES = (BEFORE, EDITED, RETAIN)
"""Roles of models in records: the model before the edit, the edited one, and one that never knew the text."""

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
    "beyond": "(attacked - retain under the same attack) / (before - edited): what the attack brings recovered and "
    "does not give to a model that never knew; null likewise",
    "recovered_interval": "95%, Fieller's, samples or prompts paired between models; null where fewer than 3 "
    "differ; beyond_interval likewise",
    "n": "samples (of loss and accuracy) or prompts that the number rests on",
    "strongest": "of all attacks with a beyond from enough samples or prompts, but what was given to the attacker; its "
    "interval holds for all of them at once (Bonferroni), and so for the one that is chosen",
}
"""Definitions of the numbers, for comparison with other tools."""


@dataclass(frozen=True)
class Cell:
    """One metric of one attack.

    :param value: Value of the edited model under the attack.
    :param retain: Value of the model that never knew the text under the same attack, or None.
    :param recovered: Share of the gap between the edited model and the one before the edit that the attack closes.
    :param beyond: Distance to the model that never knew the text, as a share of the same gap.
    :param interval: 95% interval of ``value``; None for a single sample.
    :param retain_interval: 95% interval of ``retain``.
    :param recovered_interval: 95% interval of ``recovered``.
    :param beyond_interval: 95% interval of ``beyond``.
    :param lacking: Why there are no shares although there is a model before the edit.
    :param n: Number of samples or prompts.
    :param moments: Gives the interval of ``beyond`` at other levels; not in the JSON.
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
        """Return plain JSON values."""
        return {name: value for name, value in vars(self).items() if name != "moments"}


@dataclass(frozen=True)
class Outcome:
    """The result of one attack on one view of the forget text.

    :param attack: One of ``ATTACKS``, or ``none``.
    :param name: Variant of the attack, such as ``int4``.
    :param view: ``all`` of the text, or the part ``held out`` from the attacker.
    :param steps: Relearning steps; 0 for other attacks.
    :param before: Metrics of the model before the edit in the same view, without an attack.
    :param cells: Results by metric.
    :param prompts: Number of prompts.
    """

    attack: str
    name: str
    view: str
    steps: int
    before: dict[str, float]
    cells: dict[str, Cell]
    prompts: int

    @property
    def title(self) -> str:
        """The attack in words."""
        if self.attack == "none":
            return self.name
        if self.attack != "relearn":
            return f"{self.attack}: {self.name}"
        names = {"forget text": "relearn", "half of the forget text": "relearn half"}
        return f"{names.get(self.name, self.name)}: {self.steps} step{'s' * (self.steps > 1)}, {self.view}"

    def tidy(self) -> list[TidyRow]:
        """Return every number with its interval; ``never`` is of the model that never knew the text."""
        return [
            TidyRow(self.title, "forget", f"{metric}{kind}", value, *(interval or (None, None)), cell.n)
            for metric, cell in self.cells.items()
            for kind, value, interval in (
                ("", cell.value, cell.interval),
                (", never", cell.retain, cell.retain_interval),
                (", recovered", cell.recovered, cell.recovered_interval),
                (", beyond", cell.beyond, cell.beyond_interval),
            )
            if value is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        cells = {metric: cell.to_json() for metric, cell in self.cells.items()}
        return {**asdict(replace(self, cells={})), "cells": cells}


@dataclass(frozen=True)
class _Series:
    """Values of one model in one metric: a sum and a count for each sample or prompt."""

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
    """Calculate the outcome of one attack from the records of all models.

    :param records: Records of all models without an attack and under this one.
    :param attack: The attack.
    :param name: Its variant.
    :param state: Follows the role in the attack's records, such as ``int4``; empty if weights are unchanged.
    :param texts: Texts of the attack's records; the best of several tries of a group counts.
    :param without: Ids of samples and prompts to exclude.
    :param steps: Relearning steps.
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
        before={metric: series.estimate.value for metric, series in plain[BEFORE].items()},
        cells={
            metric: _cell(metric, value, never.get(metric), plain[EDITED].get(metric), plain[BEFORE].get(metric))
            for metric, value in values.items()
        },
        prompts=len({_group(record) for record in attacked[EDITED] if record["kind"] == "continuation"}),
    )


def numbers(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of one model in one state, without those that have no records.

    Of several continuations of a group, the best counts.

    :raises DataError: A loss is not finite.
    """
    return {metric: series.estimate.value for metric, series in _series(records).items()}


def _series(records: Iterable[Mapping[str, Any]]) -> dict[str, _Series]:
    given = list(records)
    losses = [record for record in given if record["kind"] == "loss"]
    series: dict[str, _Series] = {}
    if losses:
        names = tuple(str(record["sample"]) for record in losses)
        nll, correct, tokens = (tuple(float(record[key]) for record in losses) for key in ("nll", "correct", "tokens"))
        if not math.isfinite(math.fsum(nll)):
            raise DataError(f"a loss of {losses[0]['model']} is not finite", "Check the model with taskarith eval.")
        series["loss"] = _Series(names, nll, tokens, (0.0, math.inf))
        series["accuracy"] = _Series(names, correct, tokens, RATE)
    continuations = [record for record in given if record["kind"] == "continuation"]
    for metric in METRICS[2:]:
        best: dict[str, float] = {}
        for record in continuations:
            if metric in record:
                best[_group(record)] = max(best.get(_group(record), 0.0), float(record[metric]))
        if best:
            series[metric] = _Series(tuple(best), tuple(best.values()), (1.0,) * len(best), RATE)
    return series


def _is(record: Record, model: str, texts: Sequence[str]) -> bool:
    return record["model"] == model and record["text"] in texts


def _group(record: Mapping[str, Any]) -> str:
    return str(record.get("group", record["sample"]))


def _cell(
    metric: str, attacked: _Series, never: _Series | None, edited: _Series | None, before: _Series | None
) -> Cell:
    value, other = attacked.estimate, None if never is None else never.estimate
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
    recovered = share(difference(attacked.level, edited.level), gap)
    beyond = None if never is None else share(difference(attacked.level, never.level), gap)
    return replace(
        cell,
        recovered=recovered.value,
        beyond=None if beyond is None else beyond.value,
        recovered_interval=recovered.interval(),
        beyond_interval=None if beyond is None else beyond.interval(),
        moments=beyond,
    )


def _lacking(metric: str, gap: Level) -> str | None:
    """Return why there are no shares: the edit removed nothing, or not demonstrably."""
    if gap.value >= 0 if metric == "loss" else gap.value <= 0:
        return "the model knew the text no better before the edit than after it"
    interval = interval_of(gap)
    if interval is not None and gap.differing < TELLING and metric not in METRICS[:2]:
        interval = _interval(mean(list(gap.sums.values()), (-1.0, 1.0)))  # equal scores of a few prompts say little
    if interval is None:
        return "a single sample does not show whether the edit removed anything"
    if interval[0] <= 0 <= interval[1]:
        low, high = interval
        return (
            f"before - edited is {gap.value:.3f} ({low:.3f} to {high:.3f}), which does not differ significantly from 0"
        )
    return None


def _interval(number: Estimate) -> tuple[float, float] | None:
    return None if number.low is None or number.high is None else (number.low, number.high)
