"""Numbers of one model as they are calculated, and the reasons for those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from taskarith.errors import DataError, MismatchError
from taskarith.evaluation.metrics.intervals import Estimate

__all__ = ["Collected", "Missing", "Numbers"]

_Value = TypeVar("_Value")

Numbers = dict[str, Estimate]
Missing = dict[str, str]
"""Names of missing numbers and the reasons: ``needs ...`` or ``cannot be calculated: ...``."""


@dataclass
class Collected:
    """The numbers of one model so far.

    :param numbers: Those that could be calculated.
    :param missing: The reasons for the others.
    """

    numbers: Numbers = field(default_factory=dict)
    missing: Missing = field(default_factory=dict)

    def add(self, name: str, calculate: Callable[[], Estimate]) -> Estimate | None:
        """Calculate and return a number, or note why it is missing."""
        if (number := self.attempt(name, calculate)) is not None:
            self.numbers[name] = number
        return number

    def attempt(self, name: str, calculate: Callable[[], _Value]) -> _Value | None:
        """Return the result of a calculation, or note why it is missing."""
        try:
            with np.errstate(over="raise"):  # code that may overflow overrides this
                return calculate()
        except (DataError, MismatchError) as error:
            self.missing[name] = f"cannot be calculated: {error.message}"
        except (FloatingPointError, OverflowError):
            self.missing[name] = "cannot be calculated: a value is too large for a float"
        return None
