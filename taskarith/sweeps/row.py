"""One edit of a sweep, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from taskarith.edit.edit import Edit, located, plain_operand
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.spec import OperandRef
from taskarith.sweeps.remaining import Remaining
from taskarith.sweeps.rule import Point

__all__ = ["SweepRow"]


@dataclass(frozen=True)
class SweepRow:
    """One edit, measured on all samples.

    :param name: Of its row in the scores.
    :param edit: The edit.
    :param choosing: Its numbers on the validation half.
    :param forget: Mean loss of the texts to be forgotten, on all samples.
    :param keep: Mean loss of the texts to keep.
    :param rise: Of that loss since the unedited model, sample by sample.
    :param remaining: By text to be forgotten, how much of it is left, on all samples; empty without a level.
    """

    name: str
    edit: Edit
    choosing: Point
    forget: Estimate
    keep: Estimate
    rise: Estimate
    remaining: Mapping[str, Remaining] = field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """What multiplies all coefficients."""
        return self.edit.alpha

    @property
    def operands(self) -> tuple[OperandRef, ...]:
        """The vectors with their coefficients."""
        return self.edit.operands

    @property
    def is_shown(self) -> bool:
        """Whether the samples show of each text that most of it is forgotten; true of the unedited model."""
        return self.alpha == 0 or all(one.is_forgotten for one in self.remaining.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        estimates = {"forget_loss": self.forget, "keep_loss": self.keep, "keep_rise": self.rise}
        return {
            "name": self.name,
            "alpha": self.alpha,
            "operands": [plain_operand(replace(one, base=located(one.base))) for one in self.operands if not one.role],
            **{name: number.to_json() for name, number in estimates.items()},
            "remaining": {text: left.to_json() for text, left in self.remaining.items()},
        }
