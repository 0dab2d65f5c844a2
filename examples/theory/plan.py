"""How much is measured: everything, or enough for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Plan"]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    :param alphas: Of the second tasks; -0.5, 0 and 0.5 must be among them.
    :param lambdas: Ascending.
    :param gammas: Of the out-of-domain tasks.
    :param axis: Values of each coefficient out of domain.
    :param samples: Fresh inputs for each point, task and seed.
    """

    alphas: Sequence[float]
    lambdas: Sequence[float]
    gammas: Sequence[tuple[float, float]]
    axis: Sequence[float]
    samples: int


def _grid(start: float, stop: float, step: float) -> list[float]:
    return [round(start + step * i, 6) for i in range(round((stop - start) / step) + 1)]


FULL = Plan(
    alphas=(-0.9, -0.7, -0.5, -0.2, 0.0, 0.2, 0.5, 0.7, 0.9),
    lambdas=[*_grid(-6, -2.25, 0.25), *_grid(-2, 2, 0.05)],
    gammas=((0.8, -0.5), (0.6, 0.6), (0.9, 0.3), (-0.6, -0.6)),
    axis=_grid(-3, 3, 0.3),
    samples=200,
)
QUICK = Plan(
    alphas=(-0.5, 0.0, 0.5, 0.9),
    lambdas=_grid(-3, 2, 0.1),
    gammas=((0.8, -0.5), (-0.6, -0.6)),
    axis=_grid(-3, 3, 0.75),
    samples=100,
)
