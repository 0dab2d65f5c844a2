"""The card of an output: ``README.md`` with metadata of the hub and a body in plain English, made from its record.

It follows from the record alone, so that the same inputs give the same card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskarith.cards.describe import describe
from taskarith.cards.licence import CARD_NAME, read_licence, read_metadata
from taskarith.cards.names import hub_id
from taskarith.checkpoints.provenance import command_line, versions

__all__ = ["TAG", "is_card", "model_card", "write_card"]

TAG = "task-arithmetic"
_LIBRARIES = {"edit": "transformers", "full": "transformers", "lora": "peft", "lowrank": "peft", "combination": "peft"}
_MODELS = {"finetuned", "lora"}
"""Kinds of operands that are models of their own on the hub."""


def write_card(folder: Path, record: Mapping[str, Any], base: Path) -> None:
    """Write the card of an output into its folder, before its record, which has its digest.

    :param folder: All else of it may be there or not.
    :param record: What it was made from, and how.
    :param base: The folder of its base, whose card may name a licence.
    """
    whole = {"versions": versions(), "command": command_line(), **record}
    (folder / CARD_NAME).write_text(model_card(whole, read_licence(base)), encoding="utf-8")


def model_card(record: Mapping[str, Any], licence: Mapping[str, str]) -> str:
    """Return the card of an output.

    :param record: As ``taskarith.json`` has it; with paths, of which only the last part is told.
    :param licence: Of its base.
    """
    from huggingface_hub.repocard_data import ModelCardData  # without ModelCard, which imports an HTTP client

    sources, kind = _sources(record), str(record["kind"])
    metadata: dict[str, Any] = {"library_name": _LIBRARIES.get(kind), "tags": [TAG], **licence}
    if sources:
        metadata["base_model"] = sources[0] if len(sources) == 1 else sources
        metadata["base_model_relation"] = _relation(record)
    data = ModelCardData(**metadata)
    body = describe(record, licence, str(record["command"]))
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def is_card(folder: Path) -> bool:
    """Whether the card in a folder was made here: earlier releases copied that of the base."""
    tags = read_metadata(folder).get("tags")
    return isinstance(tags, list) and TAG in tags


def _sources(record: Mapping[str, Any]) -> list[str]:
    """Return the ids of the models on the hub that an output was made from, its base first; none without a base."""
    base = hub_id(record.get("base"))
    others = [hub_id(one) for one in record.get("operands") or () if one.get("kind") in _MODELS and not one.get("role")]
    return list(dict.fromkeys([base, *filter(None, others)])) if base else []


def _relation(record: Mapping[str, Any]) -> str:
    """Return what the hub calls the relation to the base: several vectors make a merge."""
    if record["kind"] == "full":
        return "finetune"
    if record["kind"] != "edit":
        return "adapter"
    return "merge" if sum(not one.get("role") for one in record["operands"]) > 1 else "finetune"
