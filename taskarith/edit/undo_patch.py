"""The patch beside an edited model from which its input is restored, as it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.checkpoints.digests import file_digest
from taskarith.checkpoints.header import TensorEntry, read_header
from taskarith.checkpoints.provenance import read_provenance
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import CheckpointError

__all__ = ["FILE", "FORMAT", "OpenPatch", "open_patch", "unpack"]

FORMAT = "taskarith-undo"
FILE = "file:"
"""Before the names of files that a patch holds; of weight files their headers."""

_LONGEST = 100_000_008
"""Bytes of a file that a patch may hold, which is the longest header of weights."""


@dataclass(frozen=True)
class OpenPatch:
    """A patch beside the output of an edit.

    :param place: The folder.
    :param record: Of the edit.
    :param entries: The compressed strings of bytes, by name.
    :param taken: SHA-256 of the files that are taken from the folder; None for a patch of an earlier release, which
        says nothing of them.
    :param left: Files of the input that the edit did not carry.
    """

    place: Path
    record: dict[str, Any]
    entries: dict[str, TensorEntry]
    taken: Mapping[str, str] | None
    left: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The files that it holds; of weights their headers."""
        return [name.removeprefix(FILE) for name in self.entries if name.startswith(FILE)]

    def check(self) -> None:
        """Compare the file with its digest in the record, if that has one.

        :raises CheckpointError: It is another file.
        """
        files = self.record.get("files")
        recorded = files.get(UNDO_NAME) if isinstance(files, dict) else None
        if isinstance(recorded, dict) and recorded.get("sha256") != file_digest(self.place / UNDO_NAME):
            raise CheckpointError(
                f"{self.place / UNDO_NAME} is not the patch that the edit wrote",
                "Get it again from where it came from.",
            )

    def read(self, name: str) -> bytes:
        """Return a file that it holds."""
        with TensorReader() as reader:
            return unpack(reader, self.entries[FILE + name], _LONGEST)


def open_patch(place: Path) -> OpenPatch:
    """Open the patch in a folder; only its header and the record are read.

    :raises CheckpointError: There is none, or its header is broken or points outside.
    """
    record = read_provenance(place) if place.is_dir() else None
    if record is None or record.get("kind") != "edit" or not (place / UNDO_NAME).exists():
        raise CheckpointError(
            f"{place} does not hold an undo patch ({UNDO_NAME})",
            "Only outputs of taskarith apply --keep-undo can be undone.",
        )
    header = read_header(place / UNDO_NAME)
    if header.metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{place / UNDO_NAME} is not a patch of taskarith", "Get it again from where it came from."
        )
    try:
        taken, left = json.loads(header.metadata.get("taken", "null")), json.loads(header.metadata.get("left", "[]"))
        names = [*(taken or {}), *left]
        sound = isinstance(taken, dict | None) and isinstance(left, list) and all(type(one) is str for one in names)
    except (ValueError, TypeError, RecursionError):
        sound, taken, left = False, None, []
    if not sound:
        raise CheckpointError(f"the header of {place / UNDO_NAME} is broken", "Get it again from where it came from.")
    patch = OpenPatch(place, record, {tensor.name: tensor for tensor in header.tensors}, taken, tuple(left))
    if bad := [name for name in (*patch.names, *(taken or {})) if not _is_inside(name)]:
        raise CheckpointError(f"{place / UNDO_NAME} points outside: {bad[0]!a}", "Do not use this folder.")
    return patch


def _is_inside(name: str) -> bool:
    """Tell whether a name is that of a file in the folder itself or below."""
    path = PurePosixPath(name)
    is_plain = path.as_posix() == name and not path.is_absolute() and not {"..", "."} & {*path.parts}
    return (
        is_plain
        and bool(path.parts)
        and not {"\\", "\0"} & {*name}
        and (path.parent == PurePosixPath() or path.suffix != ".safetensors")
    )


def unpack(reader: TensorReader, entry: TensorEntry, most: int) -> bytes:
    """Decompress a string of at most so many bytes; nothing is allocated for a longer one."""
    data = bytes(reader.read(entry, 0, entry.nbytes))
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if not 0 <= size <= most:
            raise zstandard.ZstdError(f"{entry.name!a} has {size} bytes, more than {most}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except (zstandard.ZstdError, MemoryError) as error:
        raise CheckpointError(f"{entry.path} is broken: {error}", "Get it again from where it came from.") from error
