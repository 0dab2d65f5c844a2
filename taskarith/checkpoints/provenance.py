"""``taskarith.json``: what a folder was made from, how, and with which versions."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xxhash

from taskarith.checkpoints.digests import UNSEALED, digest_folder, is_sealed, seal
from taskarith.checkpoints.durable import replace_file
from taskarith.checkpoints.places import absolute_names, relative_names
from taskarith.errors import CheckpointError
from taskarith.untrusted import MalformedError, parse_json, read_text

__all__ = [
    "PROVENANCE_NAME",
    "command_line",
    "read_provenance",
    "record_is_sealed",
    "release",
    "versions",
    "write_provenance",
]

PROVENANCE_NAME = "taskarith.json"

_CALCULATING = ("architecture", "arithmetic", "checkpoints", "edit", "merging", "vectors")
"""The parts of taskarith that decide the bits of an output."""

_PACKAGES = ("taskarith", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy")


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that results depend on, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def release(*more: str) -> str:
    """Return a fingerprint of what calculates: taskarith's sources for that, and the versions of what it builds on.

    :param more: Further parts of taskarith that decide a result.
    """
    state = xxhash.xxh3_128(json.dumps(versions()).encode())
    folder = Path(__file__).parents[1]
    for path in sorted(path for package in (*_CALCULATING, *more) for path in (folder / package).rglob("*.py")):
        state.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return state.hexdigest()


def command_line() -> str:
    """Return the command of this process as one could type it in its folder; bytes that are not Unicode are escaped."""
    words = sys.argv[1:]
    with suppress(OSError):  # the folder that it was called in is gone
        words = relative_names(words, Path.cwd())
    program = Path(sys.argv[0])
    name = "taskarith" if program.parts[-2:] == ("taskarith", "__main__.py") else program.name  # python -m taskarith
    return shlex.join([name, *words]).encode("utf-8", "backslashreplace").decode()


def write_provenance(
    folder: Path,
    record: Mapping[str, Any],
    target: Path | None = None,
    *,
    files: bool = True,
    headers: Collection[str] = (),
) -> None:
    """Write ``taskarith.json`` into a folder: the record, its files, the command, versions, time, and its own digest.

    :param folder: All else of it is there.
    :param record: What it was made from, and how, with absolute paths.
    :param target: Where the folder will lie, if elsewhere: the record names what it was made from relative to that.
    :param files: Whether the record has the SHA-256 of every other file.
    :param headers: Weight files that have it of their header alone; the record has fingerprints of their tensors.
    """
    whole = {
        **relative_names(record, target or folder),
        **({"files": digest_folder(folder, {PROVENANCE_NAME}, headers)} if files else {}),
        "command": command_line(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "digest": UNSEALED,
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    (folder / PROVENANCE_NAME).write_bytes(seal(text.encode()))


def record_is_sealed(folder: Path) -> bool | None:
    """Tell whether the record in a folder is as it was written; None if it has no digest of itself."""
    record = read_provenance(folder) or {}  # first: what is not a file that can be read is refused
    return is_sealed((folder / PROVENANCE_NAME).read_bytes(), str(record["digest"])) if "digest" in record else None


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """Return the record in a folder, with absolute paths, or None where there is none.

    :raises CheckpointError: The file is there but is not a JSON object.
    """
    path = folder / PROVENANCE_NAME
    if not os.path.lexists(path):
        return None
    try:
        record = parse_json(read_text(path))
    except MalformedError as error:
        raise CheckpointError(
            f"cannot read {path}: {error}", "Remove it, or get it again from where it came from."
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(
            f"{path} does not hold a JSON object", "Remove it, or get it again from where it came from."
        )
    return absolute_names(record, folder)


def amend_record(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the record in a folder, which is never there in part, and seal it again.

    :param change: Returns the record as it is to be, from the one that is there.
    """
    path = folder / PROVENANCE_NAME
    record = {**change(parse_json(read_text(path))), "digest": UNSEALED}
    replace_file(path, seal((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()))
