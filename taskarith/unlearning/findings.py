"""What the outputs of stages say: whether the text is known, which alpha was chosen, what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import read_json
from taskarith.errors import DataError
from taskarith.evaluation.read_records import read_records, read_tables
from taskarith.evaluation.records import Record
from taskarith.evaluation.score import Number, make_scores
from taskarith.sweeps.remaining import measure_remaining

__all__ = ["Choice", "Known", "read_choice", "read_known"]

_FEWEST = 4
"""Samples of a text from which anything can be said of it."""


@dataclass(frozen=True)
class Known:
    """Whether the model knows the text.

    :param is_shown: Whether it is shown; None where there is nothing to compare with.
    :param sentence: What was found.
    :param level: Loss of unseen text of the same kind, in nats a token; None without a holdout text.
    """

    is_shown: bool | None
    sentence: str
    level: float | None


@dataclass(frozen=True)
class Choice:
    """What the sweep says.

    :param alpha: The alpha that meets the rule, or None.
    :param reason: Why.
    :param holds: Whether it meets the rule on the samples that did not choose it, too.
    :param compromise: The alpha that would be the best compromise; None if nothing is gained by any, or the rule is a
        budget, which is one itself.
    :param trade_off: Of each alpha: what it is, the loss of the text to forget, and the mean loss of those to keep.
    """

    alpha: float | None
    reason: str
    holds: bool
    compromise: float | None
    trade_off: tuple[tuple[float, float, float], ...]


def read_known(folder: Path, model: str, reference: str | None, holdout: str | None) -> Known:
    """Read from an evaluation whether a model knows the text to forget.

    :param folder: Of the evaluation.
    :param model: Its name there.
    :param reference: Name of the model that never saw the text, or None.
    :param holdout: Text of the same kind that was never seen, or None.
    :raises DataError: The text has too few blocks to say anything.
    """
    records = [record for record in read_records(folder) if record["model"] in {model, reference}]
    own = _of(records, model)
    blocks = sum(record["kind"] == "loss" and record["text"] == "forget" for record in own)
    if blocks < _FEWEST:
        raise DataError(
            f"the text to forget has {blocks} {'block' if blocks == 1 else 'blocks'}, and {_FEWEST} are needed",
            "Give more text, or a smaller --block-size.",
        )
    scores = make_scores({table.model: table for table in read_tables(folder) if table.model == model}, {})
    loss = scores.by_text[model]["forget"]["loss"]
    level = None if holdout is None else scores.by_text[model]["holdout"]["loss"]
    if reference is not None:
        shown = measure_remaining(own, own, _of(records, reference))["forget"].loss is not None
        return Known(shown, f"{_loss(loss)}; the reference never saw it", None if level is None else level.value)
    if level is not None:
        ends = getattr(loss, "high", None), getattr(level, "low", None)
        shown = ends[0] is not None and ends[1] is not None and ends[0] < ends[1]
        return Known(shown, f"{_loss(loss)}, and of unseen text {_loss(level)}", level.value)
    return Known(None, f"{_loss(loss)}; there is nothing to compare it with", None)


def read_choice(folder: Path) -> Choice:
    """Read what a sweep chose.

    :param folder: Of the sweep.
    """
    found = read_json(folder / "results.json")
    try:
        return _choice(found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{folder / 'results.json'} is broken: {error}", "Have it made again with --overwrite."
        ) from error


def _choice(found: Mapping[str, Any]) -> Choice:
    recommended = found["recommended"]
    rows = tuple(
        sorted((row["alpha"], row["forget_loss"]["value"], row["keep_loss"]["value"]) for row in found["rows"])
    )
    alpha = None if recommended is None else float(recommended["alpha"])
    return Choice(
        alpha, str(found["reason"]), found["holds_on_held_out"] is True, _compromise(rows, found["level"]), rows
    )


def _compromise(rows: Sequence[tuple[float, float, float]], level: Mapping[str, Any] | None) -> float | None:
    """Return the alpha with the most forgetting, up to the level, less what it costs; None if that is alpha 0."""
    if level is None:
        return None
    aim = sum(score["loss"] for score in level.values()) / len(level)
    _, alpha = max((min(forget, aim) - keep, -abs(alpha)) for alpha, forget, keep in rows)
    return -alpha or None


def _of(records: Sequence[Record], model: str) -> list[Record]:
    return [record for record in records if record["model"] == model]


def _loss(number: Number) -> str:
    low, high = getattr(number, "low", None), getattr(number, "high", None)
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{number.value:.2f}{interval}"
