"""The result of attacks, which can be read and shown without what attacks a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskarith.attacks.recovery import CONVENTIONS, EDITED, METRICS, Outcome
from taskarith.attacks.strongest import Strongest, strongest
from taskarith.evaluation.records import Record
from taskarith.tidy import TidyResult, TidyRow

__all__ = ["AttackResult"]


@dataclass(frozen=True, repr=False)
class AttackResult(TidyResult):
    """What the attacks recovered.

    :param models: Names of the models by role (``before``, ``edited``, ``retain``).
    :param untouched: Metrics by role on the whole forget text, without an attack.
    :param outcomes: Outcomes without an attack (``none``) and of every attack; of relearning at every step, in both
        views.
    :param given: Ids of the samples given to the relearning attacker, and of prompts that overlap them.
    :param missing: What cannot be calculated without a model that was not given.
    :param records: Records of all models, as in ``records.jsonl``.
    :param given_half: ``given`` for the attacker with half of the text.
    """

    models: dict[str, str]
    untouched: dict[str, dict[str, float]]
    outcomes: tuple[Outcome, ...]
    given: tuple[str, ...]
    missing: tuple[str, ...]
    records: list[Record] = field(repr=False)
    given_half: tuple[str, ...] = ()

    def _brief(self) -> dict[str, object]:
        found = [f"{one.metric}: {one.outcome.title}" for one in self.strongest if one.outcome is not None]
        return {"edited": self.models[EDITED], "outcomes": len(self.outcomes), "strongest": found}

    def tidy(self) -> list[TidyRow]:
        """Return every number of every attack with its interval."""
        return [row for outcome in self.outcomes for row in outcome.tidy()]

    @property
    def strongest(self) -> tuple[Strongest, ...]:
        """The strongest attack by each metric that has recovered shares."""
        by_metric = (strongest(self.outcomes, metric) for metric in METRICS)
        return tuple(result for result in by_metric if result is not None)

    def to_json(self) -> dict[str, Any]:
        """Return everything except the records as plain JSON values."""
        return {
            "models": dict(self.models),
            "untouched": self.untouched,
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "strongest": [strongest.to_json() for strongest in self.strongest],
            "given_to_attacker": list(self.given),
            "given_to_attacker_with_half": list(self.given_half),
            "missing": list(self.missing),
            "conventions": dict(CONVENTIONS),
        }
