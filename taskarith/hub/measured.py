"""The numbers of an evaluation on the card of the model that they were measured on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.cards.card import is_card, model_card
from taskarith.cards.describe import NOT_MEASURED
from taskarith.cards.licence import CARD_NAME, read_licence
from taskarith.cards.markdown import code
from taskarith.checkpoints.checkpoint import fingerprint_model, is_adapter, read_json
from taskarith.checkpoints.digests import compare_folder
from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance, record_is_sealed
from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.evaluation.conventions import conventions_of
from taskarith.evaluation.numbers import LENS
from taskarith.vectors.lora.read import ADAPTER_WEIGHTS

__all__ = ["measured_card"]


@dataclass(frozen=True)
class _Number:
    """One number of a text, or of all texts together (empty)."""

    text: str
    metric: str
    value: float
    low: float | None
    high: float | None


def measured_card(folder: Path, record: Mapping[str, Any], results: Path, repo: str) -> str:
    """Return the card of a model with the numbers that an evaluation measured on it.

    :param folder: The model or adapter.
    :param record: Its record.
    :param results: The folder that ``eval -o`` wrote.
    :param repo: Where it will be, ``ORG/NAME``.
    :raises UsageError: The folder does not hold an evaluation.
    :raises MismatchError: It was changed, or measured other models.
    """
    from huggingface_hub import EvalResult, ModelCard

    numbers = _read(folder, results)
    own = (folder / CARD_NAME).read_text(encoding="utf-8") if is_card(folder) else ""
    card = ModelCard(own or model_card(record, read_licence(folder)))
    card.data["model_name"] = repo
    card.data["eval_results"] = [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^a-z0-9_-]+", "-", (one.text or "all").lower()),
            dataset_name=one.text or "all texts",
            metric_type=one.metric,
            metric_value=one.value,
        )
        for one in numbers
    ]
    lines = "\n".join(f"- {_line(one)}" for one in numbers)
    meanings = conventions_of({one.metric for one in numbers})
    words = "\n".join(f"- {code(name)}: {text}" for name, text in meanings.items() if name != "seeds")
    section = (
        "These numbers were measured on the weights of this repository, which the evaluation names by their "
        f"fingerprint. They say nothing about other texts.\n\n{lines}\n\nWhat they are:\n\n{words}"
    )
    card.text = card.text.replace(NOT_MEASURED, section)
    return card.content


def _read(folder: Path, results: Path) -> list[_Number]:
    record = (read_provenance(results) if results.is_dir() else None) or {}
    hint = f"Measure it: taskarith eval {folder} --data NAME=FILE -o DIR, and give that folder"
    if record.get("kind") != "evaluation" or record.get("edit") is not None:
        raise UsageError(f"{results} is not the evaluation of a model folder", hint)
    changes = compare_folder(results, record.get("files") or {}, {PROVENANCE_NAME})
    if not record_is_sealed(results) or not changes.are_harmless:
        raise MismatchError(f"{results} was changed after it was written", hint)
    fingerprint = (
        fingerprint_bytes((folder / ADAPTER_WEIGHTS).read_bytes()) if is_adapter(folder) else fingerprint_model(folder)
    )
    numbers, models = read_json(results / "results.json"), record.get("models") or []
    found = [index for index, one in enumerate(models) if one.get("fingerprint") == fingerprint]
    if not found or len(models) != len(numbers["models"]):
        names = name_some([Path(str(one.get("name"))).name for one in models])
        raise MismatchError(f"{results} has numbers of {names}, and none of these is {folder} as it is now", hint)
    label = numbers["models"][found[0]]
    groups = {**numbers["scores"].get(label, {}), "": numbers.get("overall", {}).get(label, {})}
    return [one for text, metrics in groups.items() for one in _numbers(text, metrics)]


def _numbers(text: str, metrics: Mapping[str, Any]) -> Iterator[_Number]:
    for metric, found in metrics.items():
        value, low, high = (_finite(found.get(key)) for key in ("value", "low", "high"))
        if value is not None and not metric.startswith(LENS):  # a card has no room for one number a layer
            yield _Number(text, metric, value, low, high)


def _finite(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and math.isfinite(value) else None  # ty: ignore[invalid-argument-type]


def _line(one: _Number) -> str:
    where = f"{code(one.text)}, " if one.text else ""
    interval = (
        f" (95% interval {one.low:.4g} to {one.high:.4g})" if one.low is not None and one.high is not None else ""
    )
    return f"{where}{code(one.metric)}: {one.value:.4g}{interval}"
