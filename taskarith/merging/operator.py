"""What every operator offers that merges the deltas of one tensor, and what it is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Operator", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What is known of one tensor and its deltas before they are read.

    :param shape: Of the tensor.
    :param names: Of the deltas.
    :param weights: What each delta is multiplied by, alpha included; none is zero.
    :param absent: Likewise of the operands that do not move this tensor: their deltas would be zero.
    :param alpha: What all weights have in common; not zero.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    absent: tuple[float, ...]
    alpha: float

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def count(self) -> int:
        """Number of operands whose coefficient is not zero."""
        return len(self.weights) + sum(weight != 0 for weight in self.absent)


class Operator(Protocol):
    """Merges the deltas of one tensor, which it sees in pieces, always cut at the same places.

    ``span`` is how many elements belong together: each piece holds a multiple of it. ``wants_base`` tells whether the
    elements of the base are needed.
    """

    span: int
    wants_base: bool

    def is_ready(self) -> bool:
        """Return whether ``merge`` can begin; if not, another reading is needed before."""

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece of each delta: flat float64, finite."""

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the elements of the base from ``start`` on, as flat float64."""
