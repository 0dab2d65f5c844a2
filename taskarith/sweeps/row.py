"""One measured edit of a sweep."""

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

    :param name: Name of its row in the scores.
    :param edit: The edit.
    :param choosing: Its numbers on the validation half.
    :param forget: Mean loss of the forget sets, on all samples.
    :param keep: Mean loss of the retain sets.
    :param rise: Rise of the retain loss over the unedited model, paired by sample.
    :param remaining: What remains of each forget set, on all samples; empty without a level.
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
        """The factor of all coefficients."""
        return self.edit.alpha

    @property
    def operands(self) -> tuple[OperandRef, ...]:
        """The vectors with their coefficients."""
        return self.edit.operands

    @property
    def is_shown(self) -> bool:
        """Whether the samples show that most of each forget set is forgotten; True for the unedited model."""
        return self.alpha == 0 or all(remaining.is_forgotten for remaining in self.remaining.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        estimates = {"forget_loss": self.forget, "keep_loss": self.keep, "keep_rise": self.rise}
        return {
            "name": self.name,
            "alpha": self.alpha,
            "operands": [
                plain_operand(replace(operand, base=located(operand.base)))
                for operand in self.operands
                if not operand.role
            ],
            **{name: number.to_json() for name, number in estimates.items()},
            "remaining": {text: left.to_json() for text, left in self.remaining.items()},
        }
