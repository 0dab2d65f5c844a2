"""Trials of a search: a loaded model, edited in memory and measured by its losses on some samples."""

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

    :param values: Factors of the coefficients, in the order of ``Space.names``.
    :param point: Their losses on the validation half.
    """

    values: tuple[float, ...]
    point: Point

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"coefficients": dict(zip(names, self.values, strict=True)), **pack(self.point)}


def pack(point: Point) -> dict[str, Any]:
    """Return the losses of a point as plain values."""
    sides = {"forget": point.forget, "keep": point.keep}
    return {name: {text: score.loss for text, score in side.items()} for name, side in sides.items()} | {"kl": point.kl}


def unpack(values: Mapping[str, Any]) -> Point:
    """Return a point from the values of ``pack``."""
    forget, keep = (
        {text: TextScore(float(loss)) for text, loss in values[side].items()} for side in ("forget", "keep")
    )
    return Point(1.0, forget, keep, float(values["kl"]))


class TrialModel:
    """A model to try coefficients with.

    :param loaded: The model.
    :param samples: Samples to measure losses on, each with the name of its text.
    :param measurement: Settings of the measurement.
    :param memory: Edits the model.
    :param space: The coefficients to search.
    :param aim: The rule.
    :param kl: Weight of the KL divergence on retain sets; 0 not to measure it.
    :param units: Storage of finished trials.
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
        self._split = split_model(loaded.model, samples[0][1])
        longest = max(len(sample.input_ids) for _, sample in samples)
        self._shrink = measurement.batch_size == "auto"
        self._size = batch_start(loaded.model, longest, cached=False) if self._shrink else int(measurement.batch_size)
        memory.restore()
        states: dict[int, torch.Tensor] = {}
        scores = self._score(keep=states if kl else None)
        self.unedited = self._point(scores)
        self.kept: CachedReference | None = keep_states(self._split, states, self._size) if kl else None

    def attempt(self, values: Sequence[float]) -> Trial:
        """Edit the model and measure it, unless the trial is stored already.

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
        """Edit the model with these values, and leave it so."""
        if self._values != tuple(values):
            self.memory.make(self.space.edit_at(values))
            self._values = tuple(values)

    def _unpack(self, values: Any) -> Point:
        point = unpack(values)
        if point.forget.keys() != self.unedited.forget.keys() or point.keep.keys() != self.unedited.keep.keys():
            raise ValueError("it is for different texts")
        return point

    def objective(self, point: Point) -> float:
        """Return the function to minimise."""
        return self.aim.objective(point, self.unedited, self._kl)

    def is_met(self, point: Point) -> bool:
        """Tell whether the rule is met."""
        return self.aim.is_met(point, self.unedited)

    def _score(self, **more: Any) -> list[TokenScore]:
        samples = [sample for _, sample in self.samples]
        return score_samples(self.model, samples, Batching(self._size, self._shrink), split=self._split, **more)

    def _point(self, scores: Sequence[TokenScore]) -> Point:
        texts: dict[str, list[TokenScore]] = {}
        for (text, _), score in zip(self.samples, scores, strict=True):
            texts.setdefault(text, []).append(score)
        text_scores = {
            text: TextScore(sum(s.nll for s in group) / sum(s.tokens for s in group)) for text, group in texts.items()
        }
        retained = [score for text, group in texts.items() if not is_forgotten(text) for score in group]
        kl = sum(score.kl or 0.0 for score in retained) / sum(score.tokens for score in retained)
        return Point(
            1.0,
            {text: score for text, score in text_scores.items() if is_forgotten(text)},
            {text: score for text, score in text_scores.items() if not is_forgotten(text)},
            kl,
        )
