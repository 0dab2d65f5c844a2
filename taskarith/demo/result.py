"""The result of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.demo.scale import Scores
from taskarith.evaluation.score import tidy_row
from taskarith.tidy import TidyResult, TidyRow
from taskarith.unlearning.result import UnlearnResult

__all__ = ["DemoResult"]


@dataclass(frozen=True, repr=False)
class DemoResult(TidyResult):
    """The result of the demo.

    :param output_dir: Folder with everything.
    :param base: Scores of the base by text.
    :param curve: Scores of the tuned model minus alpha times the forgotten text's vector, by alpha and text; only those
        of alpha 0 if it is not shown that the model learned that text.
    :param control: Scores after subtracting another vector at alpha 1, by vector and text (no continuations).
    :param unlearned: What became of the forgotten text.
    :param lost: Share of the loss improvement that alpha 1 removed from each text.
    :param commands: The equivalent commands, but for the control.
    :param seconds: Duration of this call.
    """

    output_dir: Path
    base: Scores
    curve: dict[float, Scores]
    control: dict[str, Scores]
    unlearned: UnlearnResult
    lost: dict[str, float]
    commands: tuple[str, ...]
    seconds: float

    def _brief(self) -> dict[str, object]:
        return {"output_dir": self.output_dir, "recommended": self.unlearned.alpha, "lost": self.lost}

    def tidy(self) -> list[TidyRow]:
        """Return every number: of the base, of each alpha, and of each other vector that was subtracted."""
        rows = {"base": self.base, **{f"alpha {alpha:g}": scores for alpha, scores in self.curve.items()}}
        rows |= {f"minus {name}": scores for name, scores in self.control.items()}
        return [
            tidy_row(row, text, name, number)
            for row, scores in rows.items()
            for text, numbers in scores.items()
            for name, number in numbers.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain JSON values."""
        return {
            "base": _values(self.base),
            "curve": [{"alpha": alpha, "scores": _values(scores)} for alpha, scores in self.curve.items()],
            "control": {name: _values(scores) for name, scores in self.control.items()},
            "recommended_alpha": self.unlearned.alpha,
            "unlearned": self.unlearned.to_json(),
            "share_of_gain_lost_at_1": self.lost,
            "commands": list(self.commands),
            "seconds": self.seconds,
        }


def _values(scores: Scores) -> dict[str, dict[str, Any]]:
    """Return the numbers without intervals as plain JSON values; an infinite perplexity is null."""
    return {text: {name: number.to_json()["value"] for name, number in of.items()} for text, of in scores.items()}
