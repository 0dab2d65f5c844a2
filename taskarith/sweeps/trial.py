"""A loaded model at which a search tries coefficients: edited in memory, measured by losses on some samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taskarith.checkpoints.units import Units
from taskarith.data.tokens import Sample
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.evaluation.batches import Batching, batch_start
from taskarith.evaluation.loss import CachedReference, TokenScore, keep_states, score_samples, split_model
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded
from taskarith.sweeps.rule import Point, Rule, TextScore
from taskarith.sweeps.search_space import Space
from taskarith.sweeps.split import is_forgotten

__all__ = ["Trial", "TrialModel"]


@dataclass(frozen=True)
class Trial:
    """Coefficients that were tried.

    :param values: What multiplies each coefficient, in the order of ``Space.names``.
    :param point: What they give on the validation half, by losses alone.
    """

    values: tuple[float, ...]
    point: Point

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return plain values of JSON."""
        return {"coefficients": dict(zip(names, self.values, strict=True)), **pack(self.point)}


def pack(point: Point) -> dict[str, Any]:
    """Return the losses of a point as plain values."""
    sides = {"forget": point.forget, "keep": point.keep}
    return {name: {text: mark.loss for text, mark in side.items()} for name, side in sides.items()} | {"kl": point.kl}


def unpack(values: Mapping[str, Any]) -> Point:
    """Return the point of such values."""
    forget, keep = (
        {text: TextScore(float(loss)) for text, loss in values[side].items()} for side in ("forget", "keep")
    )
    return Point(1.0, forget, keep, float(values["kl"]))


class TrialModel:
    """Tries coefficients.

    :param loaded: The model.
    :param samples: To measure losses on, each with the name of its text.
    :param measurement: Of the measurements.
    :param memory: Edits the model.
    :param space: What can be set.
    :param aim: What is wanted.
    :param kl: Weight of the KL divergence on what is kept; 0 does not measure it.
    :param units: Where what was tried is kept.
    """

    def __init__(
        self,
        loaded: Loaded,
        samples: Sequence[tuple[str, Sample]],
        measurement: Measurement,
        memory: InMemoryEdit,
        space: Space,
        aim: Rule,
        kl: float,
        units: Units | None = None,
    ) -> None:
        self.units = units or Units()
        self._values: tuple[float, ...] | None = None
        self.model, self.memory, self.space, self.samples = loaded.model, memory, space, samples
        self.aim, self._kl = aim, kl
        self._halves = split_model(loaded.model, samples[0][1])
        longest = max(len(sample.input_ids) for _, sample in samples)
        self._shrink = measurement.batch_size == "auto"
        self._size = batch_start(loaded.model, longest, cached=False) if self._shrink else int(measurement.batch_size)
        memory.restore()
        states: dict[int, torch.Tensor] = {}
        scores = self._score(keep=states if kl else None)
        self.unedited = self._point(scores)
        self.kept: CachedReference | None = keep_states(self._halves, states, self._size) if kl else None

    def attempt(self, values: Sequence[float]) -> Trial:
        """Edit the model and measure it, where that is not done already.

        :raises CheckpointError: A loss is not finite.
        """
        name = f"trial {json.dumps(list(values))}"
        point = self.units.get(name, self._unpack)
        if point is None:
            self.edit(values)
            point = self._point(self._score(reference=self.kept))
            self.units.put(name, pack(point))
        return Trial(tuple(values), point)

    def edit(self, values: Sequence[float]) -> None:
        """Give the model the edit of such values; it stays so."""
        if self._values != tuple(values):
            self.memory.make(self.space.edit_at(values))
            self._values = tuple(values)

    def _unpack(self, values: Any) -> Point:
        point = unpack(values)
        if point.forget.keys() != self.unedited.forget.keys() or point.keep.keys() != self.unedited.keep.keys():
            raise ValueError("it is of other texts")
        return point

    def objective(self, point: Point) -> float:
        """Return what is to become small."""
        return self.aim.objective(point, self.unedited, self._kl)

    def is_met(self, point: Point) -> bool:
        """Tell whether the aim is met."""
        return self.aim.is_met(point, self.unedited)

    def _score(self, **more: Any) -> list[TokenScore]:
        samples = [sample for _, sample in self.samples]
        return score_samples(self.model, samples, Batching(self._size, self._shrink), halves=self._halves, **more)

    def _point(self, scores: Sequence[TokenScore]) -> Point:
        texts: dict[str, list[TokenScore]] = {}
        for (text, _), score in zip(self.samples, scores, strict=True):
            texts.setdefault(text, []).append(score)
        marks = {
            text: TextScore(sum(one.nll for one in found) / sum(one.tokens for one in found))
            for text, found in texts.items()
        }
        kept = [one for text, found in texts.items() if not is_forgotten(text) for one in found]
        kl = sum(one.kl or 0.0 for one in kept) / sum(one.tokens for one in kept)
        return Point(
            1.0,
            {text: mark for text, mark in marks.items() if is_forgotten(text)},
            {text: mark for text, mark in marks.items() if not is_forgotten(text)},
            kl,
        )
