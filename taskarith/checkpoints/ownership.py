"""Which outputs taskarith wrote itself: only those are ever replaced."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taskarith.checkpoints.digests import describe_file
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance, record_is_sealed
from taskarith.errors import CheckpointError
from taskarith.tidy import COLUMNS

__all__ = ["CSV_HEAD", "DRAWN_BY", "LATEX_HEAD", "VECTOR_FORMAT", "entry_names", "foreign_entries"]

VECTOR_FORMAT = "taskarith-vector"
"""What the header of a vector file says first."""

DRAWN_BY = "taskarith"
"""Who made a picture, as its metadata say: the software of a PNG file, the creator of an SVG or PDF file."""

CSV_HEAD = ",".join(COLUMNS)
"""The first line of a file of numbers."""

LATEX_HEAD = f"% Written by {DRAWN_BY}"
"""How the first line of a file of LaTeX tables begins."""

_DRAWN = {b"\x89PNG\r\n": f"tEXtSoftware\0{DRAWN_BY}", b"<?xml ": f"<dc:title>{DRAWN_BY}</dc:title>"}
_DRAWN |= {b"<!doctype html>": f'<meta name="generator" content="{DRAWN_BY}">'}
_DRAWN |= {f"{CSV_HEAD}\n".encode(): CSV_HEAD, f"{LATEX_HEAD}.".encode(): LATEX_HEAD}
_DRAWN |= {b"%PDF-": f"/Creator ({DRAWN_BY})"}
"""By how a picture, a report or a table begins, what says that it is ours; it stands near the beginning, too,
or of a PDF file near the end."""

_GLANCE = 4096
"""Bytes that are read at either end of a picture."""

_RESULTS = {"results.json", "records.jsonl"}
_FILES = {
    "evaluation": _RESULTS,
    "sweep": _RESULTS | {"recipe.yaml", "curve.svg", "curve.png"},
    "attack": _RESULTS | {"recovery.svg", "recovery.png"},
}
"""What the folders of results hold beside their record."""

_SMALL = 1 << 26
"""Bytes of a file that is compared with its digest whenever its output is to be replaced."""

_CHANGED = " (changed since)"

_MODEL_FILES = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|taskarith-undo\.safetensors|"
    r"adapter_(model\.safetensors|config\.json)|rest\.safetensors|runs/.*events\.out\.tfevents.*|"
    r"(config|generation_config|preprocessor_config|processor_config|chat_template)\.json|"
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|vocab\.txt|"
    r"[^/]*\.(model|tiktoken|jinja)|additional_chat_templates/[^/]*\.jinja|README\.md|(LICENSE|NOTICE)[^/]*|"
    r"(modeling|configuration|tokenization|processing|image_processing)_\w+\.py"
)
"""What a folder of a model or an adapter holds, as releases wrote it that did not list its files."""


def foreign_entries(target: Path) -> list[str]:
    """Return what an output holds that taskarith did not write, as paths relative to it; ``.`` is the file itself.

    A folder is known by its record, which lists its files: one that was changed since, and all files of a record that
    was, are somebody's work. The records of earlier releases do not list them: there, their kind says what belongs to
    them, and what the edited model still holds under the same name travelled along. A vector is known by its header, a
    picture by its metadata. Links and empty folders are never ours.

    :param target: A file or a folder that exists.
    """
    if not target.is_dir() or target.is_symlink():
        return [] if _is_vector_file(target) or _is_picture(target) else ["."]
    record = _record(target)
    if record is None:
        return sorted(entry_names(target))
    is_known, listed = _known_names(record), record.get("files")
    entries = sorted(_entries(target))
    foreign = [name for name in entries if not is_known(name)]
    if isinstance(listed, dict):
        if record_is_sealed(target) is False:
            return [*foreign, PROVENANCE_NAME + _CHANGED]
        since = (target / PROVENANCE_NAME).stat().st_mtime_ns
        known = [name for name in entries if name in listed]
        foreign += [name + _CHANGED for name in known if _is_changed(target / name, listed[name], since)]
    return foreign


def entry_names(folder: Path) -> set[str]:
    """Return the names of what lies in a folder."""
    return {path.name for path in folder.iterdir()}


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / PROVENANCE_NAME
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        record = read_provenance(folder)
    except (OSError, CheckpointError, RecursionError):
        return None
    is_ours = record is not None and {"kind", "command", "versions"} <= record.keys()
    return record if is_ours else None


def _is_changed(path: Path, recorded: Any, since: int) -> bool:
    """Tell whether a file is not as recorded; a large one that is older than its record is not read."""
    status = path.stat()
    if not isinstance(recorded, dict) or status.st_size != recorded.get("bytes"):
        return True
    is_header = "sha256" not in recorded
    if not is_header and status.st_size > _SMALL and status.st_mtime_ns <= since:
        return False
    try:
        return describe_file(path, is_header) != recorded
    except CheckpointError:
        return True


def _is_vector_file(path: Path) -> bool:
    if path.is_symlink():
        return False
    try:
        return read_header(path).metadata.get("format") == VECTOR_FORMAT
    except CheckpointError:
        return False


def _is_picture(path: Path) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_GLANCE)
            file.seek(max(0, path.stat().st_size - _GLANCE))
            end = file.read(_GLANCE)
    except OSError:
        return False
    return any(start.startswith(first) and mark.encode() in start + end for first, mark in _DRAWN.items())


def _entries(folder: Path) -> Iterator[str]:
    """Yield all files of a folder, and the links and empty folders in it, relative to it."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in links]
        place = Path(parent).relative_to(folder)
        if place.parts and not (folders or links or names):
            yield f"{place.as_posix()}/"
        for name in (*links, *names):
            is_plain = stat.S_ISREG((Path(parent) / name).lstat().st_mode)
            yield (place / name).as_posix() + ("" if is_plain else "@")


def _known_names(record: dict[str, Any]) -> Callable[[str], bool]:
    kind, listed = record["kind"], record.get("files")
    if isinstance(listed, list | dict):
        own = {name for name in listed if isinstance(name, str)} | {PROVENANCE_NAME}
        return lambda name: name in own
    if kind in _FILES:
        return lambda name: name in _FILES[str(kind)] | {PROVENANCE_NAME}
    sources = [Path(name) for name in _recorded_sources(record)]
    return lambda name: (
        name == PROVENANCE_NAME
        or _MODEL_FILES.fullmatch(name) is not None
        or (not name.endswith(("@", "/")) and any((source / name).is_file() for source in sources))
    )


def _recorded_sources(record: dict[str, Any]) -> Iterator[str]:
    """Yield the folders that the record of a model names as where its other files came from."""
    base = record.get("base")
    for name in (base.get("name") if isinstance(base, dict) else None, record.get("tokenizer")):
        if isinstance(name, str) and "\0" not in name and Path(name).is_absolute():
            yield name
