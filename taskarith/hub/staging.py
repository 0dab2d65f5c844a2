"""What is uploaded of an output: its files, without what tells of the machine that it was made on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from taskarith.cards.card import is_card, model_card
from taskarith.cards.licence import CARD_NAME, read_licence
from taskarith.checkpoints.checkpoint import ADAPTER_CONFIG, UNDO_NAME, read_json
from taskarith.checkpoints.digests import UNSEALED, describe_bytes, seal
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.errors import MismatchError, TaskarithError, UsageError
from taskarith.spec import short
from taskarith.vectors.file import VectorFile, header_json
from taskarith.vectors.open import recorded_base

__all__ = ["Staged", "check_private", "folder_record", "stage_folder", "stage_vector"]

Staged = dict[str, Path | bytes]
"""What is uploaded, by its name in the repository: a file as it is, or other bytes in its place."""

_KINDS = {"edit", "full", "lora", "lowrank", "combination"}
_LOGS = "runs/"
"""TensorBoard's logs of a training, whose names hold that of the machine."""
_TEXTS = (CARD_NAME, PROVENANCE_NAME, ADAPTER_CONFIG, "config.json", "generation_config.json", "tokenizer_config.json")


def folder_record(folder: Path) -> dict[str, Any]:
    """Return the record of a model or an adapter, with the names that it has in the file.

    :raises UsageError: The folder holds something else, or comes from a release that did not list its files.
    """
    record = read_json(folder / PROVENANCE_NAME) if (folder / PROVENANCE_NAME).is_file() else {}
    if record.get("kind") not in _KINDS or not isinstance(record.get("files"), dict):
        what = f"a folder of kind {short(record['kind'])}" if "kind" in record else f"without {PROVENANCE_NAME}"
        raise UsageError(
            f"{folder} is {what}, and is not published",
            "Name an output of apply, finetune, extract or combine: a model, an adapter or a task vector file.",
        )
    return record


def stage_folder(folder: Path, record: Mapping[str, Any], measured: str = "") -> Staged:
    """Return what is uploaded of a model or an adapter; where a file differs from it, the record says so.

    :param folder: It is as its record says.
    :param record: Its record.
    :param measured: A card with measured numbers in the place of its own; empty for none.
    """
    names = [str(name) for name in record["files"] if not str(name).startswith(_LOGS)]
    staged: Staged = {name: folder / name for name in names}
    if measured:
        staged[CARD_NAME] = measured.encode()
    elif not is_card(folder):
        staged[CARD_NAME] = model_card(record, read_licence(folder)).encode()
    if ADAPTER_CONFIG in staged:
        config = read_json(folder / ADAPTER_CONFIG)
        base = str(config.get("base_model_name_or_path") or "")
        if base.startswith(("/", "~", ".")):
            config["base_model_name_or_path"] = PurePath(base).name
            staged[ADAPTER_CONFIG] = (json.dumps(config, indent=2, sort_keys=False) + "\n").encode()
    others = {name: describe_bytes(data) for name, data in staged.items() if isinstance(data, bytes)}
    if others or len(names) < len(record["files"]):
        files = {name: digest for name, digest in record["files"].items() if name in staged} | others
        whole = {**record, "files": dict(sorted(files.items())), "digest": UNSEALED}
        staged[PROVENANCE_NAME] = seal((json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())
    else:
        staged[PROVENANCE_NAME] = folder / PROVENANCE_NAME
    return staged


def stage_vector(path: Path, repo: str) -> Staged:
    """Return what is uploaded of a task vector file: the file as it is, and a card.

    :param path: The file.
    :param repo: Where it will be, ``ORG/NAME``.
    :raises VectorError: It is not a task vector.
    """
    vector, licence = VectorFile(path), {}
    metadata = vector.metadata
    with suppress(TaskarithError):
        recorded = recorded_base(str(path))
        licence = read_licence(recorded.locate(is_local=True).path) if recorded else {}
    base = {"name": metadata["base"], "revision": metadata.get("base_revision") or None}
    record = {
        "kind": "vector",
        "form": vector.kind,
        "base": base | {"fingerprint": metadata.get("base_fingerprint", "")},
        "finetuned": header_json(path, metadata, "finetuned"),
        "command": metadata.get("command", ""),
        "versions": header_json(path, metadata, "versions"),
        "at": f"{repo}:{path.name}",
    }
    return {path.name: path, CARD_NAME: model_card(record, licence).encode()}


def check_private(staged: Staged) -> tuple[str, ...]:
    """Refuse texts that hold the path of the home folder; return what else the user should know before it is public.

    :raises MismatchError: One does.
    """
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/"}
    found = [name for name in staged if _holds(name, staged[name], [f"{home}/".encode() for home in homes])]
    if found:
        raise MismatchError(
            f"{found[0]} holds the path of your home folder, which would be published",
            "Remove the path from the model that it came from, and make the output again.",
        )
    remarks = [f"{UNDO_NAME} is uploaded, too: with it anybody can undo the edit"] if UNDO_NAME in staged else []
    if not any(name == PROVENANCE_NAME for name in staged):
        remarks.append("a task vector and its base give back the fine-tune, and what it has learned")
    return tuple(remarks)


def _holds(name: str, data: Path | bytes, texts: list[bytes]) -> bool:
    if isinstance(data, bytes):
        return any(text in data for text in texts)
    if name.endswith(".safetensors"):
        with data.open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), 1 << 28))
        return any(text in header for text in texts)
    return name in _TEXTS and any(text in data.read_bytes() for text in texts)
