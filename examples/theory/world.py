"""What all claims are measured on: models trained on a first task and on second tasks of several alphas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.theory.data import Batch, Setting, Space, new_space, sample, second_task
from examples.theory.model import Step, Transformer, initial, subtract, train

__all__ = ["World", "build_world"]


@dataclass(frozen=True)
class World:
    """Seeds are the runs of every stack: run s of all of them shares the base and the patterns.

    :param first: Task vector of the first task.
    :param second: Alpha to the task vector of the second task that has it.
    :param history: Of the training of the first task.
    :param draws: Where fresh inputs come from.
    """

    setting: Setting
    space: Space
    base: Transformer
    first: Transformer
    second: Mapping[float, Transformer]
    history: Sequence[Step]
    draws: torch.Generator

    def fresh(self, pattern: Tensor, count: int) -> Batch:
        """Draw inputs that no model was trained on."""
        return sample(pattern, self.space.irrelevant, count, self.setting, self.draws)


def build_world(setting: Setting, alphas: Sequence[float], seeds: int, seed: int = 0) -> World:
    """Train every model at once.

    :param seeds: How many independent repetitions.
    :param seed: Of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    space, base = new_space(setting, seeds, generator), initial(setting, seeds, generator)
    patterns = [space.axes[:, 0], *(second_task(space, alpha) for alpha in alphas)]
    many = Transformer(*(_repeat(x, len(patterns)) for x in (base.attention, base.values, base.signs)))
    irrelevant = _repeat(space.irrelevant, len(patterns))
    tuned, history = train(many, torch.cat(patterns), irrelevant, setting, generator)
    vectors = subtract(tuned, many)
    tasks = [vectors[i * seeds : (i + 1) * seeds] for i in range(len(patterns))]
    first_history = [Step(entry.step, entry.loss[:seeds], entry.mass[:seeds]) for entry in history]
    return World(setting, space, base, tasks[0], dict(zip(alphas, tasks[1:], strict=True)), first_history, generator)


def _repeat(tensor: Tensor, times: int) -> Tensor:
    return tensor.repeat(times, *[1] * (tensor.dim() - 1))
