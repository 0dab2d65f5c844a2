"""What became of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.tidy import Brief

__all__ = ["UnlearnResult"]


@dataclass(frozen=True, repr=False)
class UnlearnResult(Brief):
    """What became of a text.

    :param output_dir: Folder of the run.
    :param outcome: ``forgotten``; ``edited`` (written, but forgetting is not shown: a budget chose alpha, or the
        rule does not hold on samples that did not choose it); ``compromise`` (written, although no alpha meets the
        rule); ``not reached``, ``nothing to forget`` or ``planned``.
    :param alpha: Coefficient of the edited model; None without one.
    :param verdicts: What was found, each a sentence.
    :param missing: What a full proof lacks.
    :param edited: The edited model; None without one.
    :param report: The page; None for a dry run.
    :param commands: The commands of all stages.
    :param seconds: Duration of this call.
    """

    output_dir: Path
    outcome: str
    alpha: float | None
    verdicts: tuple[str, ...]
    missing: tuple[str, ...]
    edited: Path | None
    report: Path | None
    commands: tuple[str, ...]
    seconds: float

    def _brief(self) -> Mapping[str, object]:
        return {"outcome": self.outcome, "alpha": self.alpha, "edited": self.edited, "report": self.report}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        paths = {name: value and str(value) for name, value in vars(self).items() if name in {"edited", "report"}}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {**values, **paths, "output_dir": str(self.output_dir)}
