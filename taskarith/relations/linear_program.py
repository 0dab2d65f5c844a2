"""The linear program of theorem 3: coefficients of known tasks' vectors for an unseen task.

The unseen task's feature is ``sum gamma_i mu_i`` (plus a part orthogonal to all of them). Its model generalises if
``sum lambda_i gamma_i >= t``, ``sum lambda_i gamma_i^2 >= t`` and ``|lambda_i| beta <= c``, where ``t = 1 + c`` (Li et
al., "When is Task Vector Provably Effective for Model Editing?", ICLR 2025, theorem 3). Of all such coefficients, those
with the smallest maximum magnitude are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskarith.errors import UsageError

__all__ = ["FIGURE_THRESHOLD", "Programme", "solve"]

FIGURE_THRESHOLD = 0.2
"""The threshold of the paper's figure: ``1 + c``, taken literally, rejects the paper's own best point."""

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Programme:
    """A solved linear program.

    :param gammas: Its correlations.
    :param threshold: ``t``.
    :param cap: Upper bound of ``|lambda_i|``.
    :param lambdas: The coefficients; None if there are none within the cap.
    :param least: The smallest possible ``max |lambda_i|`` without the cap; None if there is no solution.
    :param reason: Why there are no coefficients; empty if there are.
    """

    gammas: tuple[float, ...]
    threshold: float
    cap: float
    lambdas: tuple[float, ...] | None
    least: float | None
    reason: str

    @property
    def beta(self) -> float | None:
        """The largest beta under which theorem 3 holds, ``c / max |lambda_i|``; None if ``t`` is not above 1."""
        if not self.least or self.threshold <= 1:
            return None
        return (self.threshold - 1) / self.least


def solve(gammas: Sequence[float], threshold: float, cap: float = math.inf) -> Programme:
    """Find the coefficients with the smallest maximum magnitude.

    :param gammas: Correlation of the unseen task with each known one, from -1 to 1.
    :param threshold: ``t`` of both sums, above 0.
    :param cap: Upper bound of magnitudes.
    :raises UsageError: A value is out of range.
    """
    values = tuple(float(gamma) for gamma in gammas)
    if not values or not all(-1 <= gamma <= 1 for gamma in values):
        raise UsageError(
            f"cannot use gamma {list(gammas)}", "Give one number from -1 to 1 for each vector, as in --gamma 0.8,-0.6"
        )
    if not (0 < threshold < math.inf and cap > 0):
        raise UsageError("the threshold and the cap must be above 0", "Write, for example, --threshold 1.1 --cap 2")
    if reason := _impossible(values):
        return Programme(values, threshold, cap, None, None, reason)
    lambdas = _minimise(np.array(values), threshold)
    least = float(np.abs(lambdas).max())
    if least > cap * (1 + _TOLERANCE):
        return Programme(
            values, threshold, cap, None, least, f"it requires a coefficient of {least:.4g}, above the cap"
        )
    return Programme(values, threshold, cap, tuple(map(float, lambdas)), least, "")


def _impossible(gammas: Sequence[float]) -> str:
    """Return why there are no coefficients at all, or an empty string.

    The gradients of the two sums, gamma and gamma^2, are opposed exactly if every nonzero gamma is the same negative
    number; otherwise some direction raises both sums.
    """
    different = {gamma for gamma in gammas if gamma}
    if not different:
        return "every gamma is 0: no vector is related to the target"
    if len(different) == 1 and min(different) < 0:
        return (
            f"every nonzero gamma is {different.pop():g}: whatever raises the first sum lowers the second, "
            "and both cannot be positive"
        )
    return ""


def _minimise(gammas: np.ndarray, threshold: float) -> np.ndarray:
    """Minimise s subject to ``-s <= lambda_i <= s`` and the two sums.

    Solved for a threshold of 1, since solutions scale with it; gamma is scaled too, in case it is tiny.
    """
    from scipy.optimize import linprog

    count = len(gammas)
    unit = float(np.abs(gammas).max())
    sums = np.array([gammas / unit, (gammas / unit) ** 2])  # sums >= 1 / unit and >= 1 / unit^2
    bounds = np.block([[np.eye(count), -np.ones((count, 1))], [-np.eye(count), -np.ones((count, 1))]])
    rows = np.vstack([np.hstack([-sums, np.zeros((2, 1))]), bounds])
    # in units of 1 / unit^2, so that nothing is tiny
    right = np.concatenate([[-unit, -1.0], np.zeros(2 * count)])
    goal = np.concatenate([np.zeros(count), [1.0]])
    limits = [(None, None)] * count + [(0, None)]
    solution = linprog(goal, A_ub=rows, b_ub=right, bounds=limits, method="highs")
    if solution.status != 0:
        raise AssertionError(f"the linear program was not solved: {solution.message}")
    return solution.x[:count] * threshold / unit**2
