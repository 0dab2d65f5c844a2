"""The interface of operators, which merge the deltas of one tensor, and what they know before they read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from taskarith.merging.methods import Method

__all__ = ["Operator", "Room", "Setting", "SinglePass"]


@dataclass(frozen=True)
class Setting:
    """What is known of one tensor and its deltas before they are read.

    :param shape: Of the tensor.
    :param names: Of the deltas.
    :param weights: What each delta is multiplied by, alpha included; none is zero.
    :param absent: Likewise of the operands that do not move this tensor: their deltas would be zero.
    :param alpha: What all weights have in common; not zero.
    :param method: The method with its parameters.
    :param device: Where matrices are decomposed.
    :param guides: How many deltas more are read, which are not added.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    absent: tuple[float, ...]
    alpha: float
    method: Method
    device: str = "cpu"
    guides: int = 0

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def columns(self) -> int:
        """Length of a row; 1 for a number."""
        return self.shape[-1] if self.shape else 1

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
        """Return whether ``merge`` can begin; if not, another pass is needed before."""

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Look at the next piece of each delta: flat float64, finite."""

    def end_scan(self) -> None:
        """Finish one pass."""

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base from ``start`` on: flat float64, valid until the next call."""


class Room:
    """Memory for an array that is made again and again: to take new one each time costs more than most arithmetic."""

    def __init__(self) -> None:
        self._values = np.empty(0)

    def of(self, count: int) -> np.ndarray:
        """Return so many float64, with anything in them; they are those that were returned before."""
        if len(self._values) < count:
            self._values = np.empty(count)
        return self._values[:count]


class SinglePass:
    """Base of operators that merge each piece as it comes, without the base.

    :param setting: What is known of the tensor.
    """

    span = 1
    wants_base = False

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def is_ready(self) -> bool:
        """Return whether no other pass is needed."""
        return True

    def scan(self, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> None:
        """Collect nothing."""

    def end_scan(self) -> None:
        """Collect nothing."""

    def _weighted(self, deltas: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Sequence[np.ndarray]]:
        """Return the deltas that are added, each times its weight, and those that are not."""
        weights = self._setting.weights
        return [weight * delta for weight, delta in zip(weights, deltas, strict=False)], deltas[len(weights) :]
