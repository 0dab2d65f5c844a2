"""The one-layer transformer, many at once, and its training by plain SGD on the hinge loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from examples.theory.data import Batch, Setting, sample

__all__ = ["Scores", "Step", "Transformer", "attend", "edit", "forward", "initial", "measure", "subtract", "train"]

_LOG_EVERY = 5  # steps between two entries of the history


@dataclass(frozen=True)
class Transformer:
    """R one-layer, one-head transformers; a task vector has the same form.

    :param attention: W = W_K^T W_Q, (R, d, d).
    :param values: V = W_O W_V, (R, m, d).
    :param signs: a, one for each position and neuron, +-1/sqrt(m), never trained, (R, P, m).
    """

    attention: Tensor
    values: Tensor
    signs: Tensor

    def __getitem__(self, runs: slice) -> Transformer:
        """Return some of the runs."""
        return Transformer(self.attention[runs], self.values[runs], self.signs[runs])


@dataclass(frozen=True)
class Scores:
    """Means over the inputs, one entry a run, (R,).

    :param loss: Hinge loss.
    :param accuracy: Share of outputs with the label's sign.
    :param margin: Label times output.
    """

    loss: Tensor
    accuracy: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Step:
    """What is logged while training.

    :param step: Updates before it.
    :param loss: Mean hinge loss of the batch, (R,).
    :param mass: Mean attention that a query with the label's pattern gives to all tokens with that pattern, (R,).
    """

    step: int
    loss: Tensor
    mass: Tensor


def initial(setting: Setting, runs: int, generator: torch.Generator) -> Transformer:
    """Draw untrained models."""

    def normal(*shape: int) -> Tensor:
        return setting.init_scale * torch.randn(runs, *shape, generator=generator)

    coins = torch.randint(0, 2, (runs, setting.tokens, setting.width), generator=generator)
    return Transformer(
        attention=normal(setting.dimension, setting.dimension),
        values=normal(setting.width, setting.dimension),
        signs=(coins * 2.0 - 1) / setting.width**0.5,
    )


def attend(model: Transformer, tokens: Tensor) -> Tensor:
    """Return softmax over s of x_s^T W x_l, (R, B, s, l)."""
    runs, count, positions, dimension = tokens.shape
    keys = torch.bmm(tokens.reshape(runs, -1, dimension), model.attention).view(-1, positions, dimension)
    scores = torch.bmm(keys, tokens.reshape(-1, positions, dimension).mT)
    return scores.softmax(-2).view(runs, count, positions, positions)


def forward(model: Transformer, tokens: Tensor, attention: Tensor | None = None) -> Tensor:
    """Return f(X) = 1/P sum_l a_l^T ReLU(sum_s V x_s softmax_l(x_s^T W x_l)), (R, B).

    :param tokens: (R, B, P, d).
    :param attention: What :func:`attend` gives, if it is there already.
    """
    runs, count, positions, dimension = tokens.shape
    weights = attend(model, tokens) if attention is None else attention
    mixed = torch.bmm(weights.flatten(0, 1).mT, tokens.reshape(-1, positions, dimension))
    hidden = torch.bmm(mixed.view(runs, -1, dimension), model.values.mT).relu_()
    signs = model.signs.reshape(runs, -1, 1)
    return torch.bmm(hidden.view(runs, count, -1), signs).squeeze(-1) / positions


def train(
    base: Transformer, pattern: Tensor, irrelevant: Tensor, setting: Setting, generator: torch.Generator
) -> tuple[Transformer, list[Step]]:
    """Fine-tune each run on its own task.

    :param pattern: Of the tasks, (R, d).
    :param irrelevant: (R, M, d).
    """
    attention, values = base.attention.clone().requires_grad_(), base.values.clone().requires_grad_()
    model, history = replace(base, attention=attention, values=values), []
    for step in range(setting.steps):
        batch = sample(pattern, irrelevant, setting.batch, setting, generator)
        weights = attend(model, batch.tokens)
        loss = (1 - batch.labels * forward(model, batch.tokens, weights)).relu().mean(1)
        gradients = torch.autograd.grad(loss.sum(), (attention, values))
        if step % _LOG_EVERY == 0:
            history.append(Step(step, loss.detach(), _relevant_mass(weights.detach(), batch)))
        with torch.no_grad():
            attention -= setting.learning_rate * gradients[0]
            values -= setting.learning_rate * gradients[1]
    return replace(base, attention=attention.detach(), values=values.detach()), history


def subtract(finetuned: Transformer, base: Transformer) -> Transformer:
    """Return the task vectors."""
    return replace(base, attention=finetuned.attention - base.attention, values=finetuned.values - base.values)


def edit(base: Transformer, vectors: Sequence[tuple[float, Transformer]]) -> Transformer:
    """Return base + sum of coefficient times vector."""
    attention, values = base.attention, base.values
    for coefficient, vector in vectors:
        attention = attention + coefficient * vector.attention
        values = values + coefficient * vector.values
    return replace(base, attention=attention, values=values)


def measure(model: Transformer, batch: Batch) -> Scores:
    """Score models on inputs."""
    margins = batch.labels * forward(model, batch.tokens)
    return Scores((1 - margins).relu().mean(1), (margins > 0).float().mean(1), margins.mean(1))


def _relevant_mass(weights: Tensor, batch: Batch) -> Tensor:
    relevant = (batch.roles == 1).float()
    mass = torch.einsum("rbsl,rbs,rbl->r", weights, relevant, relevant)
    return mass / relevant.sum((1, 2))
