"""What a lossy form of a task vector keeps of it, and how far it is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Loss"]


@dataclass(frozen=True)
class Loss:
    """A vector q that is stored in place of a vector d.

    :param kept: Number of entries that are stored.
    :param energy: Share of the squared norm of d that is kept: 1 less the square of the error.
    :param error: ``||q - d|| / ||d||``.
    :param worst: The tensor whose own relative error is the largest; empty if there is none.
    :param worst_error: Its error.
    :param errors: That of each tensor.
    """

    kept: int
    energy: float
    error: float
    worst: str
    worst_error: float
    errors: Mapping[str, float]

    @classmethod
    def of(cls, found: Mapping[str, Mapping[str, Any]]) -> Loss:
        """Work it out from what was summed up by tensor: kept, error_squares, squares; none of an empty one."""
        sums = {name: {"kept": 0, "error_squares": 0.0, **one} for name, one in sorted(found.items())}
        errors = {name: _share(one["error_squares"], one["squares"]) ** 0.5 for name, one in sums.items()}
        worst = max(errors, key=lambda name: errors[name], default="")
        missing, whole = (math.fsum(one[key] for one in sums.values()) for key in ("error_squares", "squares"))
        lost = _share(missing, whole)
        return cls(
            int(sum(one["kept"] for one in sums.values())),
            1 - lost,
            lost**0.5,
            worst,
            errors.get(worst, 0.0),
            errors,
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
