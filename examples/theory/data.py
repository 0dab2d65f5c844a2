"""The data of the theory: tokens are patterns, and a majority of discriminative tokens is the label.

Setting, model and training are those of "When is Task Vector Provably Effective for Model Editing?", ICLR 2025
(arXiv 2504.10957). All tensors are float32 and have a leading dimension R: R independent runs at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch", "Setting", "Space", "new_space", "sample", "second_task", "target_task"]


@dataclass(frozen=True)
class Setting:
    """Sizes of the model, the data and the training; the symbols of the paper in brackets.

    :param dimension: Of a token (d).
    :param irrelevant: Number of irrelevant patterns (M).
    :param width: Of the hidden layer (m).
    :param tokens: In one input (P).
    :param relevant: Tokens that carry the label's pattern (P times delta_*).
    :param confusing: Tokens that carry its negative (P times delta_#).
    :param init_scale: Standard deviation of the initial weights (xi).
    :param learning_rate: Of plain SGD (eta).
    :param batch: Inputs a step (B).
    :param steps: Of training; each has fresh inputs.
    """

    dimension: int = 40
    irrelevant: int = 32
    width: int = 512
    tokens: int = 10
    relevant: int = 4
    confusing: int = 1
    init_scale: float = 0.01
    learning_rate: float = 4.0
    batch: int = 32
    steps: int = 200


@dataclass(frozen=True)
class Space:
    """Orthonormal patterns, other ones in every run.

    :param axes: The three directions of which discriminative patterns are made, (R, 3, d).
    :param irrelevant: The irrelevant patterns, (R, M, d).
    """

    axes: Tensor
    irrelevant: Tensor


@dataclass(frozen=True)
class Batch:
    """Inputs with labels.

    :param tokens: (R, B, P, d), each of norm 1.
    :param labels: -1 or 1, (R, B).
    :param roles: 1 for a token that carries the label's pattern, -1 for its negative, 0 for irrelevant ones, (R, B, P).
    """

    tokens: Tensor
    labels: Tensor
    roles: Tensor


def new_space(setting: Setting, runs: int, generator: torch.Generator) -> Space:
    """Draw the patterns of several runs."""
    random = torch.randn(runs, setting.dimension, setting.dimension, generator=generator)
    rows = torch.linalg.qr(random).Q.mT
    return Space(axes=rows[:, :3], irrelevant=rows[:, 3 : 3 + setting.irrelevant])


def second_task(space: Space, alpha: float) -> Tensor:
    """Return the pattern of a task whose inner product with the first task's (the first axis) is alpha, (R, d)."""
    return alpha * space.axes[:, 0] + math.sqrt(1 - alpha**2) * space.axes[:, 1]


def target_task(space: Space, gamma: Sequence[float]) -> Tensor:
    """Return gamma_1 mu_1 + gamma_2 mu_2 + kappa mu_perp of norm 1, with the axes as mu_1, mu_2 and mu_perp, (R, d)."""
    kappa = math.sqrt(1 - sum(g**2 for g in gamma))
    return torch.einsum("rkd,k->rd", space.axes, torch.tensor([*gamma, kappa]))


def sample(pattern: Tensor, irrelevant: Tensor, count: int, setting: Setting, generator: torch.Generator) -> Batch:
    """Draw inputs: both labels equally likely, exact fractions of discriminative tokens, in any order.

    :param pattern: Of the task, (R, d).
    :param irrelevant: (R, M, d).
    """
    runs, dimension = pattern.shape
    shape = (runs, count, setting.tokens)
    roles = torch.zeros(setting.tokens)
    roles[: setting.relevant] = 1
    roles[setting.relevant : setting.relevant + setting.confusing] = -1
    roles = roles[torch.rand(shape, generator=generator).argsort(-1)]
    labels = torch.randint(0, 2, shape[:2], generator=generator).float() * 2 - 1
    chosen = torch.randint(0, irrelevant.shape[1], shape, generator=generator)
    filler = irrelevant.gather(1, chosen.view(runs, -1, 1).expand(-1, -1, dimension)).view(*shape, dimension)
    signs = (roles * labels[..., None])[..., None]
    return Batch(filler * (signs == 0) + signs * pattern[:, None, None], labels, roles)
