"""From what a user calls a vector to a file or folder on this machine, downloaded where it is on the hub.

On the hub a vector is ``ORG/NAME``, if its repository holds one, or ``ORG/NAME:FILE.safetensors``; ``@REVISION`` may
follow either part.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from taskarith.checkpoints.checkpoint import ADAPTER_CONFIG, INDEX_NAME, WEIGHTS_NAME
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.ownership import VECTOR_FORMAT
from taskarith.checkpoints.resolve import cached_place, is_hub_id, resolve_files, resolve_model
from taskarith.errors import CheckpointError, VectorError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import ModelRef, OperandRef, exists, parse_model

__all__ = ["check_vector", "hub_file", "is_on_hub", "locate_vector", "recorded_name"]

_FILE = re.compile(r"([^:@]+)(?:@([^:@]+))?:([\w./-]+\.safetensors)(?:@([^:@]+))?", re.ASCII)


def locate_vector(name: str, listener: Listener = SILENT) -> Path:
    """Return where a vector lies: a task vector file, an adapter folder or a model folder.

    :param name: A path, or a hub id with what may follow it; without a coefficient.
    :param listener: Receives notes about downloads.
    :raises VectorError: There is none, or a repository holds several.
    :raises CheckpointError: The hub does not have it, or cannot be reached.
    """
    path = Path(name)
    if exists(path):
        is_model = path.is_dir() or (path.is_file() and path.suffix == ".gguf")
        return resolve_model(name, listener).path if is_model else path
    if place := hub_file(name):
        return _download(*place, listener)
    check_vector(name)
    return _only_vector(resolve_model(name, listener).path, name)


def check_vector(name: str) -> None:
    """Refuse a vector that is not on this machine, nor named like one on the hub, which is not asked.

    :param name: See ``locate_vector``.
    :raises VectorError: It is neither.
    """
    if exists(name) or hub_file(name):
        return
    advice = _mistyped(name)
    if advice or not is_on_hub(name):
        raise VectorError(
            f"there is no vector {name}",
            advice
            or "Give a .safetensors task vector, a LoRA folder or a fine-tuned model, with an optional :COEFFICIENT; "
            "on the hub: ORG/NAME or ORG/NAME:FILE.safetensors",
        )


def _mistyped(name: str) -> str:
    """Return what to type instead of a vector with half a sign or half a coefficient; empty for any other name."""
    vector, _, rest = name.rpartition(":")
    if vector and exists(vector):
        return f"'{rest}' is no coefficient: give a number, as in {vector}:0.5, and put spaces around + and -."
    return "Put spaces around every sign, as in 'V1:0.6 - V2:0.4'." if re.search(r"\s[+-]", name) else ""


def is_on_hub(name: str) -> bool:
    """Whether a name could be that of a vector or a model on the hub; ``runs/v.safetensors`` is a file that is gone."""
    if exists(name) or hub_file(name):
        return not exists(name)
    return not name.endswith(".safetensors") and is_hub_id(parse_model(name).name)


def hub_file(name: str) -> tuple[ModelRef, str] | None:
    """Read ``ORG/NAME:FILE.safetensors`` with a revision after either part; None for any other name.

    A path that exists is taken as it is.
    """
    found = None if exists(name) else _FILE.fullmatch(name)
    if found is None or not is_hub_id(found[1]) or (found[2] and found[4]):
        return None
    parts = PurePosixPath(found[3]).parts
    is_inside = not found[3].startswith("/") and ".." not in parts and "/".join(parts) == found[3]
    return (ModelRef(found[1], found[2] or found[4]), found[3]) if is_inside else None


def recorded_name(reference: OperandRef, opened: str) -> str:
    """Return how a record names what was opened: an absolute path, or a hub id with the commit and perhaps a file.

    :param reference: As the user named it.
    :param opened: The path that it was opened at.
    """
    if exists(reference.name):
        return str(Path(reference.name).resolve())
    place = cached_place(Path(opened))
    return place or f"{parse_model(reference.name).name}@{Path(opened).name}"


def _download(reference: ModelRef, file: str, listener: Listener) -> Path:
    path = resolve_files(reference, [file], listener) / file
    if not path.is_file():
        raise VectorError(f"{reference} has no file {file}", "Check the name of the file on its page of the hub.")
    return path


def _only_vector(folder: Path, name: str) -> Path:
    """Return the vector that a repository holds: an adapter or a model as its folder, a task vector as its file."""
    if any((folder / one).exists() for one in (ADAPTER_CONFIG, WEIGHTS_NAME, INDEX_NAME, "config.json")):
        return folder
    found = sorted(path.name for path in folder.glob("*.safetensors") if _is_vector(path))
    if len(found) == 1:
        return folder / found[0]
    if not found:
        raise VectorError(
            f"{name} holds no model, adapter or task vector",
            "Check the name; a file in a folder of the repository is named ORG/NAME:FOLDER/FILE.safetensors",
        )
    raise VectorError(
        f"{name} holds {len(found)} task vectors: {name_some(found)}", f"Name one, as in {name}:{found[0]}"
    )


def _is_vector(path: Path) -> bool:
    try:
        return read_header(path).metadata.get("format") == VECTOR_FORMAT
    except CheckpointError:
        return False
