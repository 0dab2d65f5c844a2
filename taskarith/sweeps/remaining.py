"""The share of a model's knowledge of a text, beyond one that never knew it, that remains after an edit."""

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
"""A text counts as forgotten if at most this share remains, by the upper end of the 95% interval."""


@dataclass(frozen=True)
class Remaining:
    """What remains of one text: 0 is the level of a model that never knew it, 1 the model before the edit.

    :param loss: (level - edited) / (level - unedited) of losses; None if the samples do not show that the
        unedited model knows the text.
    :param rouge: (edited - level) / (unedited - level) of ROUGE-L F1; None likewise, or if not measured.
    """

    loss: Estimate | None
    rouge: Estimate | None

    @property
    def is_forgotten(self) -> bool:
        """Whether most of it is shown to be gone, by the loss and, if measured, ROUGE-L."""
        return self.loss is not None and all(
            share is None or (share.high is not None and share.high <= MOST_LEFT) for share in (self.loss, self.rouge)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: share and share.to_json() for name, share in (("loss", self.loss), ("rouge_l_f1", self.rouge))}

    def __str__(self) -> str:
        shares = {"loss": self.loss, "ROUGE-L": self.rouge}
        return (
            ", ".join(f"{_percent(share)} by {name}" for name, share in shares.items() if share is not None)
            or "unknown"
        )


def measure_remaining(
    edited: Sequence[Record], unedited: Sequence[Record], level: Sequence[Record] | Mapping[str, TextScore]
) -> dict[str, Remaining]:
    """Return what remains of each forget set.

    :param edited: Records of an edit.
    :param unedited: Records of the model before, on the same samples.
    :param level: Records of a model that never knew the texts, or its loss by text.
    """
    remaining = {}
    for text in dict.fromkeys(record["text"] for record in edited if is_forgotten(record["text"])):
        after, before = (_of(records, text, "loss") for records in (edited, unedited))
        tokens = np.asarray([record["tokens"] for record in before], dtype=np.float64)
        if isinstance(level, Mapping):
            aim, answers = level[text].loss * tokens, np.empty(0)
        else:
            aim, answers = _column(_of(level, text, "loss"), "nll"), _rouge(level, text)
        loss = _share(aim - _column(after, "nll"), aim - _column(before, "nll"), tokens)
        rouge = None
        if len(answers):
            known = _rouge(unedited, text) - answers
            rouge = _share(_rouge(edited, text) - answers, known, np.ones(len(known)))
        remaining[text] = Remaining(loss, rouge)
    return remaining


def _share(left: Floats, known: Floats, weights: Floats) -> Estimate | None:
    """Return the sum of what remains as a share of what was known, or None if nothing is shown to have been known.

    :param left: What remains of each sample.
    :param known: What was known of each sample.
    :param weights: Weight of each sample: its tokens.
    """
    whole = ratio(known, weights)
    if whole.low is None or whole.low <= 0:
        return None
    share = estimate(lambda at: left[at].sum(-1) / known[at].sum(-1), len(known))
    if share.low is None:  # all samples agree, as when the edit gives exactly the model that never knew
        return replace(share, low=share.value, high=share.value)
    return share


def _of(records: Sequence[Record], text: str, kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind and record["text"] == text]


def _column(records: Sequence[Record], field: str) -> Floats:
    return np.asarray([record[field] for record in records], dtype=np.float64)


def _rouge(records: Sequence[Record], text: str) -> Floats:
    return _column(_of(records, text, "continuation"), "rouge_l_f1")


def _percent(share: Estimate) -> str:
    interval = "" if share.low is None or share.high is None else f" ({share.low:.0%} to {share.high:.0%})"
    return f"{share.value:.0%}{interval}"
