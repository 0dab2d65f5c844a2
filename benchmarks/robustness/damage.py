"""Damage one of the files of a folder, in the way of its kind."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml
import zstandard

from benchmarks.robustness.mutate import mutate_bytes, mutate_json, mutate_safetensors, mutate_text, replace_file
from taskarith.checkpoints.header import build_header, read_header
from taskarith.errors import TaskarithError

__all__ = ["PATCH", "changed", "damage", "damage_file", "each"]

_Mutate = Callable[[Random, Path], bytes]


PATCH = "edited/taskarith-undo.safetensors"


def _json(rng: Random, path: Path) -> bytes:
    return mutate_json(rng, path.read_text(encoding="utf-8"))


def _lines(rng: Random, path: Path) -> bytes:
    lines = path.read_text(encoding="utf-8").splitlines()
    place = rng.randrange(len(lines))
    parts = [line.encode() for line in lines]
    parts[place] = mutate_json(rng, lines[place])
    return b"\n".join(parts)


def _yaml(rng: Random, path: Path) -> bytes:
    """Damage YAML as text, or its values, written as JSON, which is YAML."""
    text = path.read_text(encoding="utf-8")
    return mutate_text(rng, text) if rng.random() < 0.5 else mutate_json(rng, _as_json(text))


@functools.lru_cache(8)
def _as_json(text: str) -> str:
    return json.dumps(yaml.safe_load(text))


def _text(rng: Random, path: Path) -> bytes:
    return mutate_text(rng, path.read_text(encoding="utf-8"))


def _tensors(rng: Random, path: Path) -> bytes:
    return mutate_safetensors(rng, path.read_bytes())


def _patch(rng: Random, path: Path) -> bytes:
    """Damage what an undo patch holds before it is compressed, or let it claim to be huge."""
    data = path.read_bytes()
    if rng.random() < 0.3:
        return mutate_safetensors(rng, data)
    metadata, blobs = _sound_patch(data, path)
    blobs = dict(blobs)
    name = rng.choice(sorted(blobs))
    inside = zstandard.ZstdDecompressor().decompress(blobs[name])
    kind = rng.random()
    is_sized = kind < 0.9
    if kind < 0.1:
        inside = None
    elif name.endswith(".json"):
        inside = mutate_json(rng, inside.decode())
    elif name.startswith("file:"):
        inside = mutate_safetensors(rng, inside)
    else:
        inside = mutate_bytes(rng, inside)
    if kind > 0.95:
        blobs[rng.choice(("file:../x", "file:..", "file:", "file:/etc/x", "file:notes.txt", "0:x"))] = blobs.pop(name)
    else:
        blobs[name] = _bomb(rng.choice((1 << 20, 300 << 20)), is_sized) if inside is None else _packed(inside, is_sized)
    start, _ = build_header([(key, "U8", (len(blob),)) for key, blob in blobs.items()], metadata)
    return start + b"".join(blobs.values())


@functools.lru_cache(1)
def _sound_patch(data: bytes, path: Path) -> tuple[Mapping[str, str], dict[str, bytes]]:
    """Return what the header of a sound patch says, and its compressed strings of bytes."""
    header = read_header(path)
    return header.metadata, {one.name: data[one.offset : one.offset + one.nbytes] for one in header.tensors}


def _packed(inside: bytes, is_sized: bool) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=is_sized).compress(inside)


@functools.cache
def _bomb(size: int, is_sized: bool) -> bytes:
    return _packed(bytes(size), is_sized)


def _bytes(rng: Random, path: Path) -> bytes:
    return mutate_bytes(rng, path.read_bytes())


_MUTATIONS: dict[str, _Mutate] = {
    ".json": _json, ".jsonl": _lines, ".yaml": _yaml, ".safetensors": _tensors, ".csv": _text, ".tsv": _text,
    ".txt": _text, ".spec": _text, ".log": _lines, ".jinja": _text,
}  # fmt: skip
"""By ending; of other files the bytes are damaged."""


def damage(*names: str) -> Callable[[Random, Path], None]:
    """Return what damages one of some files of a folder."""

    def change(rng: Random, folder: Path) -> None:
        name = rng.choice(names)
        damage_file(rng, folder / name, _patch if name == PATCH else None)
        (folder / "changed").write_text(name, encoding="utf-8")

    return change


def damage_file(rng: Random, path: Path, mutate: _Mutate | None = None) -> None:
    """Damage a file by its ending, or in one of fifty cases put something else there."""
    if rng.random() < 0.02:
        replace_file(rng, path)
    else:
        path.write_bytes((mutate or _MUTATIONS.get(path.suffix, _bytes))(rng, path))


def changed(folder: Path, default: str) -> Path:
    """Return the file that was damaged."""
    note = folder / "changed"
    return folder / (note.read_text(encoding="utf-8") if note.exists() else default)


def each(*calls: Callable[[], Any]) -> None:
    """Make all calls, and then raise the first of our own errors, if any."""
    errors = []
    for call in calls:
        try:
            call()
        except TaskarithError as error:
            errors.append(error)
    if errors:
        raise errors[0]
