"""Numbers as they are found, and a named gap where one cannot be calculated: the others are not lost with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from taskarith.errors import DataError, MismatchError
from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["Found", "Missing", "Numbers"]

_Value = TypeVar("_Value")

Numbers = dict[str, Estimate]
Missing = dict[str, str]
"""A number's name to why it is missing: ``needs ...``, or what makes it impossible to calculate."""


@dataclass
class Found:
    """The numbers of one model so far.

    :param numbers: Those that could be calculated.
    :param missing: Why others could not be.
    """

    numbers: Numbers = field(default_factory=dict)
    missing: Missing = field(default_factory=dict)

    def add(self, name: str, calculate: Callable[[], Estimate]) -> Estimate | None:
        """Calculate a number, or say why it is missing; return it where it could be calculated."""
        if (number := self.attempt(name, calculate)) is not None:
            self.numbers[name] = number
        return number

    def attempt(self, name: str, calculate: Callable[[], _Value]) -> _Value | None:
        """Return what a number is to be made from, or say why it is missing."""
        try:
            with np.errstate(over="raise"):  # what may overflow says so itself
                return calculate()
        except (DataError, MismatchError) as error:
            self.missing[name] = f"cannot be calculated: {error.message}"
        except (FloatingPointError, OverflowError):
            self.missing[name] = "cannot be calculated: a value is too large for a float"
        return None
