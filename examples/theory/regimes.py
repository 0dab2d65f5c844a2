"""Claim C1: which lambda in base + tau_1 + lambda tau_2 learns both tasks (theorem 1) or unlearns one (theorem 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from examples.theory.data import second_task
from examples.theory.model import Transformer, edit, measure
from examples.theory.thresholds import Array, first_crossing, run_nearest_zero
from examples.theory.world import World

__all__ = [
    "ACCURATE",
    "FORGOTTEN",
    "MIRRORED",
    "TOLERANCE",
    "Curves",
    "Regime",
    "beta",
    "irrelevant_share",
    "judge",
    "sweep",
]

TOLERANCE = 0.05
"""A task is learned or kept while its hinge loss is at most this: the theorems' Theta(epsilon)."""
FORGOTTEN = 0.95
"""A task is forgotten when its hinge loss is at least this (1 is that of a model that knows nothing): Theta(1)."""
MIRRORED = -1.0
"""Below this lambda the second vector outweighs the first: attention and values are turned round."""
ACCURATE = 0.99
"""The same as TOLERANCE for those who count right answers instead of losses."""


@dataclass(frozen=True)
class Curves:
    """Scores of one alpha over lambda.

    :param lambdas: Ascending, (L,).
    :param loss: Hinge loss by task, seed and lambda, (2, S, L).
    :param accuracy: Likewise.
    """

    lambdas: Sequence[float]
    loss: Array
    accuracy: Array


@dataclass(frozen=True)
class Regime:
    """What was found at one alpha; lists have one entry a seed, NaN where there is no such lambda.

    :param addition: Least lambda >= 0 that learns both tasks.
    :param by_criterion: The same with other criteria: a tolerance of the loss as text, or "accuracy".
    :param above: Share of the lambdas of the grid from ``addition`` on that learn both.
    :param best_loss: The worse of both losses at the best lambda >= 0.
    :param mirrored: Greatest negative lambda that learns both, by turning attention and values round.
    :param negation: Ends of the run of lambdas that keep the first task and forget the second.
    :param half: The same if a loss of 0.5 counts as forgotten.
    :param by_accuracy: The same if an accuracy of 0.5 counts as forgotten and ACCURATE as kept.
    :param kept: Least lambda down to which, from 0 on, the first task is kept.
    """

    alpha: float
    addition: list[float]
    by_criterion: Mapping[str, list[float]]
    above: list[float]
    best_loss: list[float]
    mirrored: list[float]
    negation: list[tuple[float, float]]
    half: list[tuple[float, float]]
    by_accuracy: list[tuple[float, float]]
    kept: list[float]


@torch.no_grad()
def sweep(world: World, lambdas: Sequence[float], samples: int) -> dict[float, Curves]:
    """Measure both tasks at every alpha and lambda, on inputs that are the same for all lambdas.

    :param samples: Inputs for each task and seed.
    """
    result = {}
    for alpha, vector in world.second.items():
        batches = [
            world.fresh(pattern, samples) for pattern in (world.space.axes[:, 0], second_task(world.space, alpha))
        ]
        points = []
        for value in lambdas:
            model = edit(world.base, [(1.0, world.first), (value, vector)])
            points.append([measure(model, batch) for batch in batches])
        loss, accuracy = (
            np.array([[getattr(scores, name).numpy() for scores in point] for point in points], np.float64)
            for name in ("loss", "accuracy")
        )
        result[alpha] = Curves(lambdas, loss.transpose(1, 2, 0), accuracy.transpose(1, 2, 0))
    return result


def judge(alpha: float, curves: Curves, tolerances: Sequence[float] = (0.01, TOLERANCE, 0.1)) -> Regime:
    """Find the ranges of lambda that work."""
    lambdas = np.asarray(curves.lambdas)
    adding = lambdas >= 0
    positive = lambdas[adding]
    all_worse = curves.loss.max(0)
    worse, wrong = all_worse[:, adding], 1 - curves.accuracy[:, :, adding].min(0)
    by_criterion = {f"{t:g}": [first_crossing(positive, row, t) for row in worse] for t in tolerances}
    by_criterion["accuracy"] = [first_crossing(positive, row, 1 - ACCURATE) for row in wrong]
    addition = [first_crossing(positive, row, TOLERANCE) for row in worse]
    (kept_loss, lost_loss), (kept_share, lost_share) = curves.loss, curves.accuracy
    kept = kept_loss <= TOLERANCE
    return Regime(
        alpha=alpha,
        addition=addition,
        by_criterion=by_criterion,
        above=[_share_above(positive, row, start) for row, start in zip(worse, addition, strict=True)],
        best_loss=[float(row.min()) for row in worse],
        mirrored=[_highest(lambdas, (row <= TOLERANCE) & (lambdas < MIRRORED)) for row in all_worse],
        negation=_runs(curves, kept & (lost_loss >= FORGOTTEN)),
        half=_runs(curves, kept & (lost_loss >= 0.5)),
        by_accuracy=_runs(curves, (kept_share >= ACCURATE) & (lost_share <= 0.5)),
        kept=[low for low, _ in _runs(curves, kept)],
    )


def beta(regimes: Sequence[Regime]) -> float:
    """Return the most by which the measured threshold exceeds 1 - alpha at any alpha >= 0 and seed, at least 0."""
    return max(0.0, *(value - (1 - r.alpha) for r in regimes if r.alpha >= 0 for value in r.addition))


def irrelevant_share(vector: Transformer, irrelevant: torch.Tensor) -> torch.Tensor:
    """Return the share of the norm of each Delta V that lies in the irrelevant patterns, (R,): what beta stems from."""
    inside = torch.einsum("rmd,rkd->rmk", vector.values, irrelevant)
    return inside.flatten(1).norm(dim=1) / vector.values.flatten(1).norm(dim=1)


def _runs(curves: Curves, good: np.ndarray) -> list[tuple[float, float]]:
    return [run_nearest_zero(curves.lambdas, row) for row in good]


def _highest(lambdas: np.ndarray, good: np.ndarray) -> float:
    return float(lambdas[good].max()) if good.any() else float("nan")


def _share_above(lambdas: np.ndarray, losses: np.ndarray, start: float) -> float:
    return float("nan") if np.isnan(start) else float((losses[lambdas >= start] <= TOLERANCE).mean())
