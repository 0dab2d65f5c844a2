"""Where along lambda an edit works: the bounds that are compared with the theorems. Arrays of numpy, no models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_crossing", "run_nearest_zero"]

Array = NDArray[np.float64]


def first_crossing(lambdas: Sequence[float] | Array, losses: Array, tolerance: float) -> float:
    """Return the least lambda at which the loss is at most the tolerance, interpolated between points of the grid.

    :param lambdas: Ascending, (L,).
    :param losses: The worse of both tasks' losses, (L,).
    :return: NaN if it never is.
    """
    good = np.flatnonzero(losses <= tolerance)
    if good.size == 0:
        return float("nan")
    after = int(good[0])
    if after == 0:
        return float(lambdas[0])
    drop = losses[after - 1] - losses[after]
    share = (losses[after - 1] - tolerance) / drop
    return float(lambdas[after - 1] + share * (lambdas[after] - lambdas[after - 1]))


def run_nearest_zero(lambdas: Sequence[float] | Array, good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the ends of the unbroken run of good grid points that comes nearest to 0; NaN twice if none is good."""
    if not good.any():
        return float("nan"), float("nan")
    points = np.asarray(lambdas)
    middle = int(min(np.flatnonzero(good), key=lambda i: abs(points[i])))
    bad = np.flatnonzero(~good)
    low = int(bad[bad < middle].max(initial=-1)) + 1
    high = int(bad[bad > middle].min(initial=len(points))) - 1
    return float(points[low]), float(points[high])
