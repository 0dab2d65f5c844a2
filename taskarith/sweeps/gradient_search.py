"""Gradient descent on coefficients: they are few, and their gradients cost one backward pass of the model.

Weights are base + sum of c_i delta_i, so by the chain rule the derivative of a loss by c_i is the inner product of its
gradient by the weights with delta_i. In memory are the model, its gradient and the delta of each vector. The steps are
those of gradient projection (Rosen, 1960): down along the surface on which the rule is just met, and back onto it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from taskarith.data.tokens import Sample
from taskarith.edit.scales import tensor_factors
from taskarith.errors import CheckpointError, UsageError
from taskarith.sweeps.rule import Point
from taskarith.sweeps.split import is_forgotten
from taskarith.sweeps.trial import Trial, TrialModel

__all__ = ["Slope", "descend", "project"]

_STEP = 0.25  # length of the first step along the surface; it falls to a tenth along a cosine
_LONGEST = 0.3  # of a step back to it
_MARGIN = 0.02  # nats by which the rule is to be met


def descend(
    bench: TrialModel, steps: int, *, kl: float, on_trial: Callable[[int, float], None], note: Callable[[str], None]
) -> list[Trial]:
    """Follow gradients from plain negation at the middle of the range.

    :param bench: Where coefficients are tried; every step is a trial.
    :param steps: How many.
    :param kl: Weight of the KL divergence on what is kept.
    :param on_trial: Told how many are finished, and the least objective so far.
    :param note: Told how much memory the deltas take.
    :return: All trials, the start first.
    :raises UsageError: The model has other names in memory than in its files.
    """
    space = bench.space
    slope = Slope(bench)
    note(f"in memory beside the model: its gradient, and deltas of {slope.nbytes / 1e6:,.1f} MB")
    values = torch.tensor(space.start((space.low + space.high) / 2), dtype=torch.float64)
    trials: list[Trial] = []
    for step in range(steps):
        trial = bench.attempt(values.tolist())
        trials.append(trial)
        on_trial(step + 1, min(bench.objective(one.point) for one in trials))
        if step + 1 < steps:
            goal, limit, lacking = _sides(bench, trial.point)
            length = _STEP * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            slopes = [_slope(bench, slope, trial, *one) for one in ((goal, kl), (limit, 0.0))]
            move = project(values, *slopes, lacking, length, (space.low, space.high))
            values = (values + move).clamp(space.low, space.high)
    return trials


def project(
    values: torch.Tensor,
    goal: torch.Tensor,
    limit: torch.Tensor,
    lacking: float,
    length: float,
    bounds: tuple[float, float],
) -> torch.Tensor:
    """Return a step that makes one function small while another one comes to its bound.

    :param values: Where both gradients were taken.
    :param goal: Gradient of what is to become small.
    :param limit: Gradient of what has a lower bound.
    :param lacking: How far that is below its bound; negative above it.
    :param length: Of the part of the step along the bound.
    :param bounds: Of the values: one that is at its bound moves inwards only.
    """
    step = torch.zeros_like(values)
    free = torch.ones_like(values, dtype=torch.bool)
    for _ in range(len(values)):
        down, up = torch.where(free, -goal, 0.0), torch.where(free, limit, 0.0)
        size = up.square().sum()
        back = up * (lacking / size) if size > 0 else torch.zeros_like(up)
        back = back * min(1.0, _LONGEST / max(float(back.norm()), 1e-12))
        along = down - up * (down @ up / size) if size > 0 else down
        step = back + along * (length / max(float(along.norm()), 1e-12))
        outwards = free & (((values <= bounds[0]) & (step < 0)) | ((values >= bounds[1]) & (step > 0)))
        if not outwards.any():
            break
        free = free & ~outwards
    return step


def _slope(bench: TrialModel, slope: Slope, trial: Trial, weights: Mapping[str, float], kl: float) -> torch.Tensor:
    """Return the derivative at what was tried, where it is not known already; see ``Slope.at``."""
    name = f"slope {json.dumps([trial.values, sorted(weights.items()), kl])}"
    known = bench.units.get(name, lambda value: _read_slope(value, len(trial.values)))
    if known is None:
        bench.edit(trial.values)
        known = slope.at(weights, kl)
        bench.units.put(name, known.tolist())
    return known


def _read_slope(value: Any, size: int) -> torch.Tensor:
    found = torch.tensor(value, dtype=torch.float64)
    if found.shape != (size,):
        raise ValueError(f"it does not have {size} derivatives")
    return found


def _sides(bench: TrialModel, point: Point) -> tuple[dict[str, float], dict[str, float], float]:
    """Return what is to become small and what has a bound, as weights of the losses of texts; and what that lacks."""
    aim = bench.aim
    forget = dict.fromkeys(point.forget, 1 / len(point.forget))
    keep = dict.fromkeys(point.keep, 1 / len(point.keep))
    if aim.budget is not None:
        lacking = point.keep_loss - bench.unedited.keep_loss - aim.budget
        return (
            {text: -one for text, one in forget.items()},
            {text: -one for text, one in keep.items()},
            lacking + _MARGIN,
        )
    lacks = {text: mark.loss - point.forget[text].loss for text, mark in (aim.level or {}).items()}
    worst = max(lacks, key=lambda text: lacks[text])
    return keep, {worst: 1.0}, lacks[worst] + _MARGIN


class Slope:
    """Derivatives of losses by each value.

    :param bench: Where coefficients are tried.
    :raises UsageError: The model has other names in memory than in its files.
    """

    def __init__(self, bench: TrialModel) -> None:
        self._bench = bench
        self._places = _places(bench)
        self._deltas = _deltas(bench)
        self._tokens: dict[str, int] = {}
        for text, sample in bench.samples:
            self._tokens[text] = self._tokens.get(text, 0) + len(_scored(sample))

    @property
    def nbytes(self) -> int:
        """Bytes of the deltas."""
        return sum(delta.nbytes for vector in self._deltas for delta in vector.values())

    def at(self, weights: Mapping[str, float], kl: float = 0.0) -> torch.Tensor:
        """Return the derivative at the edit that the model has, float64.

        :param weights: Of the loss of each text; others have none.
        :param kl: Weight of the KL divergence on what is kept.
        :raises CheckpointError: It is not finite.
        """
        model = self._bench.model.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        for index, (text, sample) in enumerate(self._bench.samples):
            loss = self._loss(index, text, sample, weights.get(text, 0.0), kl)
            if loss is not None:
                loss.backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        result, parts = torch.zeros(len(self._bench.space.names), dtype=torch.float64), len(self._bench.space.parts)
        for number, vector in enumerate(self._deltas):
            for name in sorted(vector.keys() & gradients.keys()):  # in one order, so that the sum is the same
                product = (gradients[name].float() * vector[name].float()).sum(dtype=torch.float64)
                result[number * parts + self._places[name]] += product.cpu()
        model.zero_grad(set_to_none=True)
        if not torch.isfinite(result).all():
            raise CheckpointError("the gradient of the coefficients is not finite", "Use --dtype float32.")
        return result

    def _loss(self, index: int, text: str, sample: Sample, weight: float, kl: float) -> torch.Tensor | None:
        """Return a sample's part, or None if it has none."""
        model, kept = self._bench.model, None if is_forgotten(text) or not kl else self._bench.kept
        if not weight and kept is None:
            return None
        ids = torch.tensor([sample.input_ids], device=model.device)
        scored = torch.tensor(_scored(sample), device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, scored - 1].float()
        loss = functional.cross_entropy(logits, ids[0, scored], reduction="sum") * (weight / self._tokens[text])
        if kept is None:
            return loss
        all_kept = sum(count for name, count in self._tokens.items() if not is_forgotten(name))
        with torch.no_grad():
            there = kept.head(kept.states[index].to(model.device)).float().log_softmax(-1)
        distance = functional.kl_div(logits.log_softmax(-1), there, reduction="sum", log_target=True)
        return loss + kl / all_kept * distance


def _deltas(bench: TrialModel) -> list[dict[str, torch.Tensor]]:
    """Return what each vector adds to each parameter at a value of 1, in the model's dtype."""
    vectors, parts = sum(not one.role for one in bench.space.edit.operands), len(bench.space.parts)
    base = {name: one.detach().clone() for name, one in bench.model.named_parameters()}
    found = []
    for number in range(vectors):
        bench.memory.make(bench.space.edit_at([float(i // parts == number) for i in range(vectors * parts)]))
        now = {name: one.detach() - base[name] for name, one in bench.model.named_parameters()}
        found.append({name: delta for name, delta in now.items() if delta.any()})
    bench.memory.restore()
    return found


def _places(bench: TrialModel) -> dict[str, int]:
    """Return which part each parameter is in."""
    parts, files = bench.space.parts, list(bench.memory.dimensions)
    found = tensor_factors({part: (float(number),) for number, part in enumerate(parts)}, files)
    names = [name for name, _ in bench.model.named_parameters()]
    if strange := [name for name in names if name not in found]:
        raise UsageError(
            f"{strange[0]} has another name in memory than in the model's files",
            "Gradients cannot be taken of this architecture: use --search N instead.",
        )
    return {name: int(found[name]) for name in names}


def _scored(sample: Sample) -> range:
    return range(max(sample.prompt_length, 1), len(sample.input_ids))
