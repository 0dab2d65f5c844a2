"""How much of what a model knew of a text, beyond one that never knew it, an edit has left: with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taskarith.evaluation.metrics.intervals import Estimate, Floats, estimate, ratio
from taskarith.evaluation.records import Record
from taskarith.sweeps.rule import TextScore
from taskarith.sweeps.split import is_forgotten

__all__ = ["MOST_LEFT", "Remaining", "measure_remaining"]

MOST_LEFT = 0.5
"""A text counts as forgotten if at most this share of what was known is left by the upper end of the 95% interval."""


@dataclass(frozen=True)
class Remaining:
    """What is left of one text: 0 is the level of a model that never knew it, 1 the model before the edit.

    :param loss: (level - edited) / (level - unedited), of losses. None: the samples do not show that the unedited model
        knows the text.
    :param rouge: (edited - level) / (unedited - level), of ROUGE-L F1; None likewise, or where it was not measured.
    """

    loss: Estimate | None
    rouge: Estimate | None

    @property
    def is_forgotten(self) -> bool:
        """Whether the samples show that most of it is gone, by each measure that can tell; the loss has to."""
        return self.loss is not None and all(
            one is None or (one.high is not None and one.high <= MOST_LEFT) for one in (self.loss, self.rouge)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values of JSON."""
        return {name: one and one.to_json() for name, one in (("loss", self.loss), ("rouge_l_f1", self.rouge))}

    def __str__(self) -> str:
        shares = {"loss": self.loss, "ROUGE-L": self.rouge}
        return ", ".join(f"{_percent(one)} by {name}" for name, one in shares.items() if one is not None) or "unknown"


def measure_remaining(
    edited: Sequence[Record], unedited: Sequence[Record], level: Sequence[Record] | Mapping[str, TextScore]
) -> dict[str, Remaining]:
    """Return what is left of each text to be forgotten.

    :param edited: Records of an edit.
    :param unedited: Of the model before, on the same samples.
    :param level: Of a model that never knew the texts; or by text the loss of one.
    """
    found = {}
    for text in dict.fromkeys(one["text"] for one in edited if is_forgotten(one["text"])):
        after, before = (_of(records, text, "loss") for records in (edited, unedited))
        tokens = np.asarray([one["tokens"] for one in before], dtype=np.float64)
        if isinstance(level, Mapping):
            aim, answers = level[text].loss * tokens, np.empty(0)
        else:
            aim, answers = _column(_of(level, text, "loss"), "nll"), _rouge(level, text)
        loss = _share(aim - _column(after, "nll"), aim - _column(before, "nll"), tokens)
        rouge = None
        if len(answers):
            known = _rouge(unedited, text) - answers
            rouge = _share(_rouge(edited, text) - answers, known, np.ones(len(known)))
        found[text] = Remaining(loss, rouge)
    return found


def _share(left: Floats, known: Floats, weights: Floats) -> Estimate | None:
    """Return the sum of what is left as a share of the sum of what was known, if that is shown to be any.

    :param left: Of each sample.
    :param known: Of each sample.
    :param weights: Of each sample: its tokens.
    """
    whole = ratio(known, weights)
    if whole.low is None or whole.low <= 0:
        return None
    share = estimate(lambda at: left[at].sum(-1) / known[at].sum(-1), len(known))
    if share.low is None:  # all samples agree, as where the edit gives back the very model that never knew
        return replace(share, low=share.value, high=share.value)
    return share


def _of(records: Sequence[Record], text: str, kind: str) -> list[Record]:
    return [one for one in records if one["kind"] == kind and one["text"] == text]


def _column(records: Sequence[Record], field: str) -> Floats:
    return np.asarray([one[field] for one in records], dtype=np.float64)


def _rouge(records: Sequence[Record], text: str) -> Floats:
    return _column(_of(records, text, "continuation"), "rouge_l_f1")


def _percent(share: Estimate) -> str:
    interval = "" if share.low is None or share.high is None else f" ({share.low:.0%} to {share.high:.0%})"
    return f"{share.value:.0%}{interval}"
