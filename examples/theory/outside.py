"""Claim C2: which (lambda_1, lambda_2) serve a task T' that neither vector was trained on (theorem 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from examples.theory.data import Batch, target_task
from examples.theory.model import edit, measure
from examples.theory.regimes import ACCURATE, TOLERANCE
from examples.theory.world import World

__all__ = ["LOW_THRESHOLD", "Agreement", "Region", "compare", "least_coefficients", "measure_region", "predicted"]

LOW_THRESHOLD = 0.2
"""Right-hand side of the inequalities with which the paper drew its own region."""


@dataclass(frozen=True)
class Region:
    """Success over a square grid of coefficients of two irrelevant tasks.

    :param gamma: Of T': mu' = gamma_1 mu_1 + gamma_2 mu_2 + kappa mu_perp.
    :param axis: Values of both coefficients, (L,).
    :param learned: Loss at most TOLERANCE, by seed, lambda_1 and lambda_2, (S, L, L).
    :param accurate: Accuracy at least ACCURATE, likewise.
    :param least: Solution of the linear programme, None if there is none.
    :param least_loss: Hinge loss of T' there, one a seed.
    :param least_accuracy: Likewise.
    """

    gamma: tuple[float, float]
    axis: Sequence[float]
    learned: NDArray[np.bool_]
    accurate: NDArray[np.bool_]
    least: tuple[float, float] | None
    least_loss: list[float]
    least_accuracy: list[float]


@dataclass(frozen=True)
class Agreement:
    """A predicted region against a measured one, over all points of the grid and seeds.

    :param predicted: Share of the points that are predicted to succeed.
    :param measured: Share of the points that do.
    :param precision: Share of the predicted ones that do; NaN if none is predicted.
    :param recall: Share of those that do that were predicted; NaN if none does.
    :param agreement: Share of points on which both say the same.
    """

    predicted: float
    measured: float
    precision: float
    recall: float
    agreement: float


def least_coefficients(gamma: Sequence[float], threshold: float, beta: float = 0.0) -> tuple[float, ...] | None:
    """Solve min max|lambda_i| with sum lambda_i gamma_i and sum lambda_i gamma_i^2 >= threshold + beta max|lambda_i|.

    With threshold 1 this is theorem 3 to the letter, as its c may be as small as beta max|lambda_i|.

    :return: None if no coefficients serve.
    """
    row = np.asarray(gamma, dtype=np.float64)
    count = len(row)
    sums = np.vstack([-row, -(row**2)])
    bounded = np.vstack([np.eye(count), -np.eye(count)])
    rows = np.vstack([np.hstack([sums, [[beta], [beta]]]), np.hstack([bounded, -np.ones((2 * count, 1))])])
    limits = np.concatenate([[-threshold, -threshold], np.zeros(2 * count)])
    cost = np.zeros(count + 1)
    cost[-1] = 1
    solved = linprog(cost, A_ub=rows, b_ub=limits, bounds=[(None, None)] * count + [(0, None)])
    return tuple(float(x) for x in solved.x[:count]) if solved.success else None


def predicted(
    gamma: tuple[float, float], axis: Sequence[float], threshold: float, beta: float = 0.0
) -> NDArray[np.bool_]:
    """Return where theorem 3 promises success, (L, L); with beta also c = beta max|lambda_i| < 1 is asked for."""
    one, two = np.meshgrid(np.asarray(axis), np.asarray(axis), indexing="ij")
    c = beta * np.maximum(abs(one), abs(two))
    values = gamma[0] * one + gamma[1] * two
    attention = gamma[0] ** 2 * one + gamma[1] ** 2 * two
    return (values >= threshold + c - 1e-9) & (attention >= threshold + c - 1e-9) & (c < 1)


@torch.no_grad()
def measure_region(
    world: World, gamma: tuple[float, float], axis: Sequence[float], samples: int, beta: float
) -> Region:
    """Measure T' at every point of the grid and at the solution of the linear programme.

    :param beta: As measured for claim C1.
    """
    batch = world.fresh(target_task(world.space, gamma), samples)
    points = [[_score(world, batch, (one, two)) for two in axis] for one in axis]
    loss, accuracy = np.array(points, np.float64).transpose(2, 3, 0, 1)
    least = least_coefficients(gamma, 1.0, beta)
    there = _score(world, batch, (least[0], least[1])) if least else ([], [])
    return Region(
        gamma=gamma,
        axis=axis,
        learned=loss <= TOLERANCE,
        accurate=accuracy >= ACCURATE,
        least=(least[0], least[1]) if least else None,
        least_loss=there[0],
        least_accuracy=there[1],
    )


def compare(promised: NDArray[np.bool_], found: NDArray[np.bool_]) -> Agreement:
    """Compare a region, (L, L), with what every seed found, (S, L, L)."""
    both = np.broadcast_to(promised, found.shape)
    hits = float((both & found).sum())
    return Agreement(
        predicted=float(both.mean()),
        measured=float(found.mean()),
        precision=hits / both.sum() if both.any() else float("nan"),
        recall=hits / found.sum() if found.any() else float("nan"),
        agreement=float((both == found).mean()),
    )


def _score(world: World, batch: Batch, coefficients: tuple[float, float]) -> tuple[list[float], list[float]]:
    vectors = list(zip(coefficients, (world.first, world.second[0.0]), strict=True))
    scores = measure(edit(world.base, vectors), batch)
    return scores.loss.tolist(), scores.accuracy.tolist()
