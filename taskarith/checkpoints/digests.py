"""Digests of all files of a folder, and what has become of them; seals of texts that hold their own digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.errors import CheckpointError
from taskarith.progress import SILENT, Listener

__all__ = [
    "UNSEALED",
    "FolderChanges",
    "compare_folder",
    "describe_bytes",
    "describe_file",
    "digest_folder",
    "file_digest",
    "folder_files",
    "is_sealed",
    "seal",
]

UNSEALED = "0" * 64
"""Stands for the digest of a text in that text, until ``seal`` puts it there."""

_PIECE = 1 << 22
"""Bytes that are read at a time."""

_TOOLS = {".git", ".gitattributes", ".gitignore", ".cache"}
"""What git and the hub's programs put into a folder, beside the model."""


@dataclass(frozen=True)
class FolderChanges:
    """Files that are not as recorded, relative to the folder.

    :param compared: Number of files that were compared.
    :param changed: Those with another content or size.
    :param missing: Those that are gone.
    :param added: Those that the record does not have; a folder is named as a whole where it is that of a tool.
    """

    compared: int = 0
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def are_harmless(self) -> bool:
        """Whether nothing changed but what git and the hub's programs add."""
        return not self.changed and not self.missing and all(name.removesuffix("/") in _TOOLS for name in self.added)


def digest_folder(folder: Path, besides: Collection[str] = (), headers: Collection[str] = ()) -> dict[str, Any]:
    """Return size and SHA-256 of every file of a folder.

    :param folder: It is complete.
    :param besides: Names that are left out.
    :param headers: Names of safetensors files of which the header alone is digested, since their tensors have
        fingerprints.
    """
    names = [name for name in folder_files(folder) if name not in besides]
    return {name: describe_file(folder / name, name in headers) for name in names}


def compare_folder(
    folder: Path, recorded: Mapping[str, Any], besides: Collection[str] = (), listener: Listener = SILENT
) -> FolderChanges:
    """Compare the files of a folder with what ``digest_folder`` returned.

    :param folder: It need not be as it was.
    :param recorded: What was returned.
    :param besides: Names that are left out.
    :param listener: Receives progress updates, in bytes.
    :raises CheckpointError: A file cannot be read.
    """
    found = [name for name in folder_files(folder) if name not in besides]
    there = sorted(recorded.keys() & set(found))
    bar = _Bar(listener, sum(_size(folder / name) for name in there if "sha256" in recorded[name]))
    changed = [
        name
        for name in there
        if describe_file(folder / name, "sha256" not in recorded[name], bar.add) != recorded[name]
    ]
    return FolderChanges(
        len(there),
        tuple(changed),
        tuple(sorted(recorded.keys() - set(found))),
        tuple(sorted(set(found) - recorded.keys())),
    )


def file_digest(path: Path, on_bytes: Callable[[int], object] = int) -> str:
    """Return the SHA-256 of a file; ``on_bytes`` is told how many were read, piece by piece."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            state.update(piece)
            on_bytes(len(piece))
    return state.hexdigest()


def seal(text: bytes) -> bytes:
    """Put the digest of a text, which holds ``UNSEALED`` in its place, into that text."""
    before, _, after = text.rpartition(UNSEALED.encode())
    return before + hashlib.sha256(text).hexdigest().encode() + after


def is_sealed(text: bytes, digest: str) -> bool:
    """Tell whether a text is what ``seal`` returned.

    :param text: All of it.
    :param digest: The digest that it names.
    """
    before, found, after = text.rpartition(digest.encode())
    return bool(found) and hashlib.sha256(before + UNSEALED.encode() + after).hexdigest() == digest


def folder_files(folder: Path) -> Iterator[str]:
    """Give out the names of all files; links to folders, and folders of tools, as names that end with a slash."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        whole = [
            name for name in folders if (Path(place) / name).is_symlink() or (name in _TOOLS and place == str(folder))
        ]
        folders[:] = sorted(set(folders) - set(whole))
        yield from (f"{(inside / name).as_posix()}/" for name in sorted(whole))
        yield from ((inside / name).as_posix() for name in sorted(names))


class _Bar:
    """Adds up what was read of files."""

    def __init__(self, listener: Listener, total: int) -> None:
        self._listener, self._done, self._total = listener, 0, total

    def add(self, count: int) -> None:
        """Take note of some bytes."""
        self._done += count
        self._listener.progress("verifying files", self._done, max(self._done, self._total))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def describe_bytes(data: bytes) -> dict[str, Any]:
    """Return size and SHA-256 of what will be a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def describe_file(path: Path, header_only: bool, on_bytes: Callable[[int], object] = int) -> dict[str, Any]:
    """Return size and digest of a file; of what is not a regular file the kind alone."""
    try:
        if not path.is_file():  # a pipe would be waited for, a dangling link cannot be read
            return {"bytes": 0, "not": "a regular file"}
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if header_only:
                prefix = file.read(8)
                length = min(int.from_bytes(prefix, "little"), size)
                return {"bytes": size, "header_sha256": hashlib.sha256(prefix + file.read(length)).hexdigest()}
            return {"bytes": size, "sha256": file_digest(path, on_bytes)}
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", "Check the path and its permissions.") from error
