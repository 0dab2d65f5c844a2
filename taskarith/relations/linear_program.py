"""The linear programme of theorem 3: coefficients with which vectors of known tasks make up an unseen one.

The unseen task's feature is ``sum gamma_i mu_i`` (plus what is orthogonal to all of them). Its model generalises if
``sum lambda_i gamma_i >= t``, ``sum lambda_i gamma_i^2 >= t`` and ``|lambda_i| beta <= c``, where ``t = 1 + c`` (Li et
al., "When is Task Vector Provably Effective for Model Editing?", ICLR 2025, theorem 3). Of all such coefficients those
are chosen whose largest magnitude is least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskarith.errors import UsageError

__all__ = ["FIGURE_THRESHOLD", "Programme", "solve"]

FIGURE_THRESHOLD = 0.2
"""With which the paper draws its region: ``1 + c``, taken literally, rejects the paper's own best point."""

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Programme:
    """A solved programme.

    :param gammas: What was asked.
    :param threshold: ``t``.
    :param cap: Most that ``|lambda_i|`` may be.
    :param lambdas: The coefficients; None where there are none within the cap.
    :param least: The least ``max |lambda_i|`` that any solution has, whatever the cap; None where there is none at all.
    :param reason: Why there are none; empty where there are.
    """

    gammas: tuple[float, ...]
    threshold: float
    cap: float
    lambdas: tuple[float, ...] | None
    least: float | None
    reason: str

    @property
    def beta(self) -> float | None:
        """The largest beta under which theorem 3 holds, ``c / max |lambda_i|``; None where ``t`` leaves no ``c``."""
        if not self.least or self.threshold <= 1:
            return None
        return (self.threshold - 1) / self.least


def solve(gammas: Sequence[float], threshold: float, cap: float = math.inf) -> Programme:
    """Find the coefficients with the least largest magnitude.

    :param gammas: Correlation of the unseen task with each known one, from -1 to 1.
    :param threshold: ``t`` of both sums, above 0.
    :param cap: Most that a magnitude may be.
    :raises UsageError: A value is out of range.
    """
    found = tuple(float(gamma) for gamma in gammas)
    if not found or not all(-1 <= gamma <= 1 for gamma in found):
        raise UsageError(f"cannot use gamma {list(gammas)}", "Give one for each vector, from -1 to 1: --gamma 0.8,-0.6")
    if not (0 < threshold < math.inf and cap > 0):
        raise UsageError("the threshold and the cap are above 0", "As in --threshold 1.1 --cap 2")
    if reason := _impossible(found):
        return Programme(found, threshold, cap, None, None, reason)
    lambdas = _minimise(np.array(found), threshold)
    least = float(np.abs(lambdas).max())
    if least > cap * (1 + _TOLERANCE):
        return Programme(found, threshold, cap, None, least, f"it needs a coefficient of {least:.4g}, above the cap")
    return Programme(found, threshold, cap, tuple(float(one) for one in lambdas), least, "")


def _impossible(gammas: Sequence[float]) -> str:
    """Say why no coefficients at all will do, or nothing.

    The gradients of the two sums, gamma and gamma^2, oppose each other exactly where every gamma that is not 0 is one
    and the same negative number; in every other case some direction raises both sums.
    """
    different = {gamma for gamma in gammas if gamma}
    if not different:
        return "every gamma is 0: no vector has anything to do with the target"
    if len(different) == 1 and min(different) < 0:
        return (
            f"every gamma that is not 0 is {different.pop():g}: what raises the first sum lowers the second as much, "
            "and both cannot be positive"
        )
    return ""


def _minimise(gammas: np.ndarray, threshold: float) -> np.ndarray:
    """Minimise s subject to ``-s <= lambda_i <= s`` and the two sums.

    Solved for a threshold of 1, since solutions scale with it; gamma is scaled too, where it is tiny.
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
        raise AssertionError(f"the linear programme was not solved: {solution.message}")
    return solution.x[:count] * threshold / unit**2
