"""Gradient descent on coefficients, whose gradients cost one backward pass of the model.

Weights are base + sum of c_i delta_i, so by the chain rule the derivative of a loss by c_i is the inner product of its
gradient by the weights with delta_i. The model, its gradient and the delta of each vector are in memory. The steps are
those of gradient projection (Rosen, 1960): along the surface on which the rule is just met, and back onto it.
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

_STEP = 0.25  # length of the first step along the surface, with cosine decay to a tenth
_MAX_RETURN = 0.3  # maximum length of a step back to the surface
_MARGIN = 0.02  # nats by which to exceed the rule


def descend(
    tester: TrialModel, steps: int, *, kl: float, on_trial: Callable[[int, float], None], note: Callable[[str], None]
) -> list[Trial]:
    """Follow gradients, starting from plain negation at the middle of the range.

    :param tester: Tries coefficients; every step is a trial.
    :param steps: Number of steps.
    :param kl: Weight of the KL divergence on retain sets.
    :param on_trial: Receives the number of finished trials and the lowest objective so far.
    :param note: Receives a note on the memory of the deltas.
    :return: All trials, the start first.
    :raises UsageError: The model's names in memory differ from those in its files.
    """
    space = tester.space
    slope = Slope(tester)
    note(f"in memory beside the model: its gradient, and deltas of {slope.nbytes / 1e6:,.1f} MB")
    values = torch.tensor(space.start((space.low + space.high) / 2), dtype=torch.float64)
    trials: list[Trial] = []
    for step in range(steps):
        trial = tester.attempt(values.tolist())
        trials.append(trial)
        on_trial(step + 1, min(tester.objective(trial.point) for trial in trials))
        if step + 1 < steps:
            goal, limit, shortfall = _sides(tester, trial.point)
            length = _STEP * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            slopes = [_slope(tester, slope, trial, *terms) for terms in ((goal, kl), (limit, 0.0))]
            move = project(values, *slopes, shortfall, length, (space.low, space.high))
            values = (values + move).clamp(space.low, space.high)
    return trials


def project(
    values: torch.Tensor,
    goal: torch.Tensor,
    limit: torch.Tensor,
    shortfall: float,
    length: float,
    bounds: tuple[float, float],
) -> torch.Tensor:
    """Return a step that decreases one function while another moves to its lower bound.

    :param values: Point of both gradients.
    :param goal: Gradient of the function to decrease.
    :param limit: Gradient of the function with a lower bound.
    :param shortfall: How far the latter is below its bound; negative above it.
    :param length: Length of the part of the step along the bound.
    :param bounds: Bounds of the values; a value at its bound moves inwards only.
    """
    step = torch.zeros_like(values)
    free = torch.ones_like(values, dtype=torch.bool)
    for _ in range(len(values)):
        down, up = torch.where(free, -goal, 0.0), torch.where(free, limit, 0.0)
        size = up.square().sum()
        back = up * (shortfall / size) if size > 0 else torch.zeros_like(up)
        back = back * min(1.0, _MAX_RETURN / max(float(back.norm()), 1e-12))
        along = down - up * (down @ up / size) if size > 0 else down
        step = back + along * (length / max(float(along.norm()), 1e-12))
        outwards = free & (((values <= bounds[0]) & (step < 0)) | ((values >= bounds[1]) & (step > 0)))
        if not outwards.any():
            break
        free = free & ~outwards
    return step


def _slope(tester: TrialModel, slope: Slope, trial: Trial, weights: Mapping[str, float], kl: float) -> torch.Tensor:
    """Return the derivative at a trial, unless it is stored already; see ``Slope.at``."""
    name = f"slope {json.dumps([trial.values, sorted(weights.items()), kl])}"
    known = tester.units.get(name, lambda value: _read_slope(value, len(trial.values)))
    if known is None:
        tester.edit(trial.values)
        known = slope.at(weights, kl)
        tester.units.put(name, known.tolist())
    return known


def _read_slope(value: Any, size: int) -> torch.Tensor:
    derivatives = torch.tensor(value, dtype=torch.float64)
    if derivatives.shape != (size,):
        raise ValueError(f"it does not have {size} derivatives")
    return derivatives


def _sides(tester: TrialModel, point: Point) -> tuple[dict[str, float], dict[str, float], float]:
    """Return the function to decrease and the bounded one, as weights of texts' losses, and the latter's shortfall."""
    aim = tester.aim
    forget = dict.fromkeys(point.forget, 1 / len(point.forget))
    keep = dict.fromkeys(point.keep, 1 / len(point.keep))
    if aim.budget is not None:
        shortfall = point.keep_loss - tester.unedited.keep_loss - aim.budget
        return (
            {text: -weight for text, weight in forget.items()},
            {text: -weight for text, weight in keep.items()},
            shortfall + _MARGIN,
        )
    shortfalls = {text: score.loss - point.forget[text].loss for text, score in (aim.level or {}).items()}
    worst = max(shortfalls, key=lambda text: shortfalls[text])
    return keep, {worst: 1.0}, shortfalls[worst] + _MARGIN


class Slope:
    """Derivatives of losses by each coefficient.

    :param tester: Tries coefficients.
    :raises UsageError: The model's names in memory differ from those in its files.
    """

    def __init__(self, tester: TrialModel) -> None:
        self._tester = tester
        self._part_of = _part_of(tester)
        self._deltas = _deltas(tester)
        self._tokens: dict[str, int] = {}
        for text, sample in tester.samples:
            self._tokens[text] = self._tokens.get(text, 0) + len(_scored(sample))

    @property
    def nbytes(self) -> int:
        """Bytes of the deltas."""
        return sum(delta.nbytes for vector in self._deltas for delta in vector.values())

    def at(self, weights: Mapping[str, float], kl: float = 0.0) -> torch.Tensor:
        """Return the derivative at the model's current edit, float64.

        :param weights: Weights of the texts' losses; 0 for others.
        :param kl: Weight of the KL divergence on retain sets.
        :raises CheckpointError: It is not finite.
        """
        model = self._tester.model.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        for index, (text, sample) in enumerate(self._tester.samples):
            loss = self._loss(index, text, sample, weights.get(text, 0.0), kl)
            if loss is not None:
                loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        result, parts = torch.zeros(len(self._tester.space.names), dtype=torch.float64), len(self._tester.space.parts)
        for number, vector in enumerate(self._deltas):
            for name in sorted(vector.keys() & gradients.keys()):  # in a fixed order, so that sums are reproducible
                product = (gradients[name].float() * vector[name].float()).sum(dtype=torch.float64)
                result[number * parts + self._part_of[name]] += product.cpu()
        model.zero_grad(set_to_none=True)
        if not torch.isfinite(result).all():
            raise CheckpointError("the gradient of the coefficients is not finite", "Use --dtype float32.")
        return result

    def _loss(self, index: int, text: str, sample: Sample, weight: float, kl: float) -> torch.Tensor | None:
        """Return a sample's contribution to the objective, or None."""
        model, kept = self._tester.model, None if is_forgotten(text) or not kl else self._tester.kept
        if not weight and kept is None:
            return None
        ids = torch.tensor([sample.input_ids], device=model.device)
        scored = torch.tensor(_scored(sample), device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, scored - 1].float()
        loss = functional.cross_entropy(logits, ids[0, scored], reduction="sum") * (weight / self._tokens[text])
        if kept is None:
            return loss
        retain_tokens = sum(count for name, count in self._tokens.items() if not is_forgotten(name))
        with torch.no_grad():
            reference = kept.head(kept.states[index].to(model.device)).to(logits.device).float().log_softmax(-1)
        distance = functional.kl_div(logits.log_softmax(-1), reference, reduction="sum", log_target=True)
        return loss + kl / retain_tokens * distance


def _deltas(tester: TrialModel) -> list[dict[str, torch.Tensor]]:
    """Return the delta of each vector for each parameter at coefficient 1, in the model's dtype."""
    vectors, parts = sum(not operand.role for operand in tester.space.edit.operands), len(tester.space.parts)
    base = {name: weight.detach().clone() for name, weight in tester.model.named_parameters()}
    deltas = []
    for number in range(vectors):
        tester.memory.make(tester.space.edit_at([float(i // parts == number) for i in range(vectors * parts)]))
        now = {name: weight.detach() - base[name] for name, weight in tester.model.named_parameters()}
        deltas.append({name: delta for name, delta in now.items() if delta.any()})
    tester.memory.restore()
    return deltas


def _part_of(tester: TrialModel) -> dict[str, int]:
    """Return the number of the part that each parameter belongs to."""
    parts, files = tester.space.parts, list(tester.memory.dimensions)
    part_numbers = tensor_factors({part: (float(number),) for number, part in enumerate(parts)}, files)
    names = [name for name, _ in tester.model.named_parameters()]
    if unknown := [name for name in names if name not in part_numbers]:
        raise UsageError(
            f"{unknown[0]} has a different name in memory than in the model's files",
            "Gradient search does not support this architecture: use --search N instead.",
        )
    return {name: int(part_numbers[name]) for name in names}


def _scored(sample: Sample) -> range:
    return range(max(sample.prompt_length, 1), len(sample.input_ids))
