"""Claims C3 and C4: vectors of rank 1, or without their small rows, do what whole ones do (corollaries 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from examples.theory.data import Batch, second_task, target_task
from examples.theory.model import Transformer, edit, measure
from examples.theory.world import World

__all__ = [
    "CHECKS",
    "Check",
    "Outcome",
    "Rows",
    "check_vectors",
    "draw_inputs",
    "low_rank",
    "prune",
    "rank_error",
    "row_norms",
    "split_rows",
]

Change = Callable[[Transformer], Transformer]
Outcome = tuple[list[float], list[float]]
"""Hinge losses and accuracies, one a seed."""


@dataclass(frozen=True)
class Check:
    """An edit that works with whole vectors, by the theorem it stands for.

    :param title: What it is.
    :param alpha: Of the second task.
    :param coefficients: Of both vectors.
    :param gamma: Of the task that is measured; None measures the two tasks that the vectors come from.
    """

    title: str
    alpha: float
    coefficients: tuple[float, float]
    gamma: tuple[float, float] | None = None


CHECKS = (
    Check("T1 alone", 0.0, (1.0, 0.0), (1.0, 0.0)),
    Check("addition, α = 0", 0.0, (1.0, 1.2)),
    Check("addition, α = 0.5", 0.5, (1.0, 0.7)),
    Check("negation, α = 0", 0.0, (1.0, -0.3)),
    Check("negation, α = -0.5", -0.5, (1.0, -0.5)),
    Check("out of domain, γ = (0.8, -0.5)", 0.0, (2.2, 0.8), (0.8, -0.5)),
)


@dataclass(frozen=True)
class Rows:
    """How the row norms of Delta V fall into two groups.

    :param small: Share of rows in the lower group, one a seed.
    :param gap: Smallest norm of the upper group by the largest of the lower one.
    :param energy: Share of the squared norm of Delta V in the lower group.
    :param mask: True for the rows of the lower group, (R, m).
    """

    small: list[float]
    gap: list[float]
    energy: list[float]
    mask: Tensor


def draw_inputs(world: World, samples: int, checks: Sequence[Check] = CHECKS) -> list[list[Batch]]:
    """Draw fresh inputs of every task that the checks measure."""
    return [[world.fresh(pattern, samples) for pattern in (_targets(world, check))] for check in checks]


@torch.no_grad()
def check_vectors(
    world: World, change: Change, inputs: Sequence[Sequence[Batch]], checks: Sequence[Check] = CHECKS
) -> dict[str, list[Outcome]]:
    """Measure each edit with changed vectors.

    :param change: What is done to both vectors before they are used.
    :param inputs: From :func:`draw_inputs`.
    :return: Title to one outcome for each task.
    """
    result = {}
    for check, batches in zip(checks, inputs, strict=True):
        vectors = [change(world.first), change(world.second[check.alpha])]
        model = edit(world.base, list(zip(check.coefficients, vectors, strict=True)))
        scores = [measure(model, batch) for batch in batches]
        result[check.title] = [(s.loss.tolist(), s.accuracy.tolist()) for s in scores]
    return result


def low_rank(vector: Transformer, rank: int = 1) -> Transformer:
    """Keep the leading singular directions of Delta W and Delta V."""
    return replace(vector, attention=_truncate(vector.attention, rank), values=_truncate(vector.values, rank))


def rank_error(matrix: Tensor, rank: int = 1) -> Tensor:
    """Return the Frobenius norm of what truncation leaves out by that of the whole, (R,)."""
    energy = torch.linalg.svdvals(matrix) ** 2
    return (energy[:, rank:].sum(1) / energy.sum(1)).sqrt()


def row_norms(vector: Transformer) -> Tensor:
    """Return the norms of the rows of Delta V, (R, m)."""
    return vector.values.norm(dim=2)


def split_rows(vector: Transformer) -> Rows:
    """Cut the rows in two where consecutive norms differ by the largest factor, but for the outermost tenths."""
    ordered, order = row_norms(vector).sort(1)
    width = ordered.shape[1]
    edge = width // 10
    ratios = ordered[:, edge + 1 : width - edge] / ordered[:, edge : width - edge - 1].clamp_min(1e-12)
    gap, position = ratios.max(1)
    small = position + edge + 1
    lower = torch.arange(width) < small[:, None]
    energy = (ordered**2 * lower).sum(1) / (ordered**2).sum(1)
    mask = torch.zeros_like(lower).scatter(1, order, lower)
    return Rows((small / width).tolist(), gap.tolist(), energy.tolist(), mask)


def prune(vector: Transformer, mask: Tensor) -> Transformer:
    """Set rows of Delta V to zero.

    :param mask: True where they go, (R, m).
    """
    return replace(vector, values=vector.values.masked_fill(mask[..., None], 0.0))


def _targets(world: World, check: Check) -> list[Tensor]:
    if check.gamma:
        return [target_task(world.space, check.gamma)]
    return [world.space.axes[:, 0], second_task(world.space, check.alpha)]


def _truncate(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[..., :rank] * values[:, None, :rank]) @ right[:, :rank]
