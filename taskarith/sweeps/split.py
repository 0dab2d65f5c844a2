"""A split of samples into two halves, one to choose and one to report, and the means of records."""

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
    """Tell whether a text is a forget set: its name begins with forget, or forgotten."""
    return text.startswith(("forget", "forgotten"))


@dataclass(frozen=True)
class Halves:
    """Samples to choose and samples to report, each as kind, text and id.

    :param validation: Samples to choose an edit.
    :param heldout: Samples to report its numbers.
    :param single: Texts with a single sample or prompt, which is in both halves.
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
    """Split samples into halves by their order, text by text: every other one is held out.

    Prompts come first. A sample with the id of a prompt, of the same row, joins it; others go to the smaller half.

    :param samples: Kind, text and id of each.
    """
    halves: tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]] = (set(), set())
    single = []
    for text in dict.fromkeys(text for _, text, _ in samples):
        prompts = [sample for sample in samples if sample[:2] == (_CONTINUATION, text)]
        losses = [sample for sample in samples if sample[:2] == (_LOSS, text)]
        half_of = {prompt[2]: number % 2 for number, prompt in enumerate(prompts)}
        counts = [sum(half_of.get(sample[2]) == half for sample in losses) for half in (0, 1)]
        for sample in losses:
            if sample[2] not in half_of:
                half_of[sample[2]] = int(counts[1] < counts[0])
                counts[half_of[sample[2]]] += 1
        for group in (prompts, losses):
            for sample in group:
                halves[half_of[sample[2]]].add(sample)
            if len(group) == 1:
                halves[0].update(group)
                halves[1].update(group)
                single += [text] if text not in single else []
    return Halves(frozenset(halves[0]), frozenset(halves[1]), tuple(single))


def _key(record: Record) -> tuple[str, str, str]:
    """Return the kind, text and id of a record; divergences count as losses."""
    kind = record["kind"]
    return _LOSS if kind == "divergence" else kind, record["text"], record["sample"]


def point_of(alpha: float, records: Sequence[Record]) -> Point:
    """Return the means of one row's records."""
    forget: dict[str, TextScore] = {}
    keep: dict[str, TextScore] = {}
    for text in dict.fromkeys(record["text"] for record in records):
        losses = [r for r in records if r["kind"] == _LOSS and r["text"] == text]
        scores = [r["rouge_l_f1"] for r in records if r["kind"] == _CONTINUATION and r["text"] == text]
        loss = math.fsum(r["nll"] for r in losses) / sum(r["tokens"] for r in losses)
        score = TextScore(loss, math.fsum(scores) / len(scores) if scores else None)
        (forget if is_forgotten(text) else keep)[text] = score
    return Point(alpha, forget, keep)


def mean_loss(records: Sequence[Record], beside: Sequence[Record] = (), *, forgotten: bool) -> Estimate:
    """Return the mean loss over texts, with its interval over samples.

    :param records: Records of one row.
    :param beside: Records of another row on the same samples, to take the difference sample by sample.
    :param forgotten: True for the forget sets, False for the retain sets.
    """
    others = {(r["text"], r["sample"]): r["nll"] for r in beside if r["kind"] == _LOSS}
    groups: dict[str, list[tuple[float, int]]] = {}
    for record in records:
        if record["kind"] == _LOSS and is_forgotten(record["text"]) == forgotten:
            other = others[record["text"], record["sample"]] if beside else 0.0
            groups.setdefault(record["text"], []).append((record["nll"] - other, record["tokens"]))
    tables = [np.asarray(group, dtype=np.float64).T for group in groups.values()]

    def statistic(*positions: Any) -> Any:
        sums = [table[:, at].sum(-1) for table, at in zip(tables, positions, strict=True)]
        return sum(nll / tokens for nll, tokens in sums) / len(tables)

    return estimate(statistic, *(table.shape[1] for table in tables))
