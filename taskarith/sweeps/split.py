"""Samples dealt into two halves, to choose on one and to report on the other; and records in few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskarith.evaluation.metrics.intervals import Estimate, estimate
from taskarith.evaluation.records import Record
from taskarith.sweeps.rule import Point, TextScore

__all__ = ["Halves", "deal", "is_forgotten", "mean_loss", "point_of"]

_LOSS, _CONTINUATION = "loss", "continuation"


def is_forgotten(text: str) -> bool:
    """Tell by the name of a text whether it is to be forgotten: it begins with forget, or forgotten."""
    return text.startswith(("forget", "forgotten"))


@dataclass(frozen=True)
class Halves:
    """Samples to choose on, and samples to report on, each as kind, text and id.

    :param validation: To choose on.
    :param heldout: To report on.
    :param single: Texts that have a single sample or prompt, which is in both halves.
    """

    validation: frozenset[tuple[str, str, str]]
    heldout: frozenset[tuple[str, str, str]]
    single: tuple[str, ...]

    def choosing(self, records: Sequence[Record]) -> list[Record]:
        """Return the records of the validation half."""
        return [record for record in records if _key(record) in self.validation]

    def reporting(self, records: Sequence[Record]) -> list[Record]:
        """Return the records of the held-out half."""
        return [record for record in records if _key(record) in self.heldout]


def deal(samples: Sequence[tuple[str, str, str]]) -> Halves:
    """Deal samples into halves by their order alone, text by text: every other one is held out.

    Prompts come first. A sample with the id of a prompt, the same row, goes where that is; any other to the half that
    has fewer.

    :param samples: Kind, text and id of each.
    """
    halves: tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]] = (set(), set())
    single = []
    for text in dict.fromkeys(text for _, text, _ in samples):
        prompts = [one for one in samples if one[:2] == (_CONTINUATION, text)]
        losses = [one for one in samples if one[:2] == (_LOSS, text)]
        place = {one[2]: number % 2 for number, one in enumerate(prompts)}
        counts = [sum(place.get(one[2]) == half for one in losses) for half in (0, 1)]
        for one in losses:
            if one[2] not in place:
                place[one[2]] = int(counts[1] < counts[0])
                counts[place[one[2]]] += 1
        for group in (prompts, losses):
            for one in group:
                halves[place[one[2]]].add(one)
            if len(group) == 1:
                halves[0].update(group)
                halves[1].update(group)
                single += [text] if text not in single else []
    return Halves(frozenset(halves[0]), frozenset(halves[1]), tuple(single))


def _key(record: Record) -> tuple[str, str, str]:
    """Return the kind, text and id of a record; what compares with a reference goes with the losses."""
    kind = record["kind"]
    return _LOSS if kind == "divergence" else kind, record["text"], record["sample"]


def point_of(alpha: float, records: Sequence[Record]) -> Point:
    """Return the means of one row's records."""
    forget: dict[str, TextScore] = {}
    keep: dict[str, TextScore] = {}
    for text in dict.fromkeys(record["text"] for record in records):
        losses = [one for one in records if one["kind"] == _LOSS and one["text"] == text]
        scores = [one["rouge_l_f1"] for one in records if one["kind"] == _CONTINUATION and one["text"] == text]
        loss = math.fsum(one["nll"] for one in losses) / sum(one["tokens"] for one in losses)
        mark = TextScore(loss, math.fsum(scores) / len(scores) if scores else None)
        (forget if is_forgotten(text) else keep)[text] = mark
    return Point(alpha, forget, keep)


def mean_loss(records: Sequence[Record], beside: Sequence[Record] = (), *, forgotten: bool) -> Estimate:
    """Return the mean over texts of their losses, with its interval over the samples of each.

    :param records: Of one row.
    :param beside: Of another row on the same samples: the difference to it, sample by sample.
    :param forgotten: Of the texts to be forgotten, or of those to keep.
    """
    others = {(one["text"], one["sample"]): one["nll"] for one in beside if one["kind"] == _LOSS}
    groups: dict[str, list[tuple[float, int]]] = {}
    for one in records:
        if one["kind"] == _LOSS and is_forgotten(one["text"]) == forgotten:
            other = others[one["text"], one["sample"]] if beside else 0.0
            groups.setdefault(one["text"], []).append((one["nll"] - other, one["tokens"]))
    tables = [np.asarray(group, dtype=np.float64).T for group in groups.values()]

    def statistic(*positions: Any) -> Any:
        sums = [table[:, at].sum(-1) for table, at in zip(tables, positions, strict=True)]
        return sum(nll / tokens for nll, tokens in sums) / len(tables)

    return estimate(statistic, *(table.shape[1] for table in tables))
