"""Task vector files: safetensors whose header binds the deltas to their base; a dense one holds them as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskarith.checkpoints.digests import UNSEALED
from taskarith.checkpoints.header import SEAL, TensorEntry, read_header
from taskarith.checkpoints.ownership import VECTOR_FORMAT
from taskarith.checkpoints.places import absolute_name, absolute_names, relative_names
from taskarith.errors import VectorError, name_some
from taskarith.untrusted import MalformedError, parse_json
from taskarith.vectors.vector import BaseRecord, Stored, Vector
from taskarith.vectors.vocabulary import first_rows, last_rows

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "KINDS",
    "WEIGHTS",
    "DenseVector",
    "VectorFile",
    "check_delta",
    "header_json",
    "vector_metadata",
]

FORMAT = VECTOR_FORMAT
FORMAT_VERSION = "1"
KINDS = ("dense", "exact", "sparse", "quantised")
"""The kinds of task vector files."""
WEIGHTS = "weights"
"""The kind of a file that has a weight for each parameter, which is not a task vector."""


class VectorFile:
    """What the header of a task vector file says, whatever its kind; no tensor has been read.

    ``recorded`` are the fingerprints of what is stored of each delta, as it was written.

    :param path: A ``.safetensors`` file written by ``taskarith extract``.
    :param kind: The kind that is expected; None for any.
    :raises VectorError: It is not a task vector, or of a version or kind that this release does not know.
    :raises CheckpointError: It is not a sound safetensors file.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path, kind: str | None = None) -> None:
        header = read_header(path)
        metadata = header.metadata
        if metadata.get("format") != FORMAT:
            raise VectorError(
                f"{path} is not a task vector (its header says format {metadata.get('format', 'nothing')!r})",
                "Make one with: taskarith extract BASE FINETUNED -o forget.safetensors",
            )
        version, found = metadata.get("format_version"), metadata.get("kind", "")
        if found == WEIGHTS and kind != WEIGHTS:
            raise VectorError(
                f"{path} has a weight for each parameter and is not a task vector",
                "Give it beside one: taskarith apply --negate V --method perta --weights FILE",
            )
        if version != FORMAT_VERSION or found not in ((kind,) if kind else KINDS):
            raise VectorError(
                f"{path} is a task vector of version {version} and kind {found}, which this release does not read",
                "Use the release that wrote it, or extract it again.",
            )
        self.name, self.kind = str(path), found
        self.files: tuple[Path, ...] = (path,)
        self.metadata = metadata
        self.base: BaseRecord | None = _base(path, metadata)
        self.known: frozenset[str] | None = frozenset(self.base.tensors)
        self.tied: Mapping[str, str] = _table(path, metadata, "tied")
        self.recorded: Mapping[str, str] = _table(path, metadata, "deltas")
        self.entries = {tensor.name: tensor for tensor in header.tensors}


class DenseVector(VectorFile):
    """A task vector file with the deltas as they are, or a file with weights.

    Of a fine-tune with more tokens than its base, ``new_rows`` are the rows that the base lacks, as the fine-tune has
    them; ``base_rows`` says how many it has.

    :param path: A ``.safetensors`` file written by ``taskarith extract``, or by ``importance``.
    :param kind: ``dense`` or ``WEIGHTS``.
    :raises VectorError: It is not a task vector, or of a version, kind or dtype that this release does not know.
    :raises CheckpointError: It is not a sound safetensors file.
    """

    def __init__(self, path: Path, kind: str = "dense") -> None:
        super().__init__(path, kind)
        odd = [tensor.name for tensor in self.entries.values() if not tensor.is_float]
        if odd:
            raise VectorError(
                f"{path} has {len(odd)} deltas that are not floats: {name_some(odd)}", "Extract it again."
            )
        self.base_rows: Mapping[str, int] = _base_rows(path, self.metadata, self.entries)
        self.new_rows: Mapping[str, TensorEntry] = {
            name: last_rows(self.entries[name], rows)
            for name, rows in self.base_rows.items()
            if rows < self.entries[name].shape[0]
        }
        self.recorded = {name: found for name, found in self.recorded.items() if name not in self.new_rows}
        self._deltas = {
            name: first_rows(entry, self.base_rows[name]) if name in self.new_rows else entry
            for name, entry in self.entries.items()
        }
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tensor.shape for name, tensor in self._deltas.items()}

    def delta(self, tensor: str) -> Stored:
        """Return where the delta of one tensor lies."""
        return Stored(self._deltas[tensor])


def check_delta(vector: Vector, name: str, shape: tuple[int, ...], found: str) -> None:
    """Compare what was read of a delta with what the header of its file says that was written.

    :param vector: A vector; only task vector files say it.
    :param name: The delta.
    :param shape: Of what was read; of some of its rows nothing is known.
    :param found: Fingerprint of what was read.
    :raises VectorError: It is something else.
    """
    is_known = isinstance(vector, VectorFile) and vector.shapes[name] == shape
    if is_known and vector.recorded.get(name, found) != found:
        made = "measured" if vector.kind == WEIGHTS else "extracted"
        raise VectorError(
            f"{name} in {vector.name} is not what was written when it was {made}",
            "The file is damaged: make it again, or get it again from where it came from.",
        )


def header_json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return what a value of a vector's header says, all of which are texts and the structured ones JSON objects.

    :param path: The file.
    :param metadata: Its header.
    :param key: Which value; one that is missing is an empty object.
    :raises VectorError: It is something else.
    """
    try:
        table = parse_json(metadata.get(key, "{}"))
    except MalformedError as error:
        raise VectorError(f"{path} has a broken header: '{key}': {error}", "Extract it again.") from error
    if not isinstance(table, dict):
        raise VectorError(f"{path} has a broken header: '{key}' is not a JSON object", "Extract it again.")
    return absolute_names(table, path.parent) if key == "finetuned" else table


def vector_metadata(
    kind: str,
    base: BaseRecord,
    finetuned: Mapping[str, Any],
    dtype: str,
    tied: Mapping[str, str],
    target: Path,
    **more: str,
) -> dict[str, str]:
    """Return the header of a vector file, string to string; everything structured is JSON.

    :param kind: How the deltas are stored.
    :param base: The base with the fingerprint of each tensor.
    :param finetuned: Name, fingerprint and ``taskarith.json`` record of the fine-tune.
    :param dtype: Dtype of the deltas.
    :param tied: Tensors that only the base stores, and what they are tied to.
    :param target: Where the file will lie: models are named relative to its folder.
    :param more: Counts, command and versions.
    """
    name = relative_names(base.to_json(), target.parent)["name"]
    finetuned = relative_names(finetuned, target.parent)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "dtype": dtype,
        "base": name,
        "base_revision": base.revision or "",
        "base_fingerprint": base.fingerprint,
        "base_tensors": json.dumps(base.tensors, separators=(",", ":")),
        "finetuned": json.dumps(finetuned, separators=(",", ":"), ensure_ascii=False),
        "tied": json.dumps(tied, separators=(",", ":")),
        **more,
        **({} if kind == WEIGHTS else {SEAL: UNSEALED}),
    }


def _base(path: Path, metadata: Mapping[str, str]) -> BaseRecord:
    name, fingerprint = metadata.get("base"), metadata.get("base_fingerprint", "")
    if not name:
        raise VectorError(f"{path} does not name its base", "Extract it again.")
    tensors = _table(path, metadata, "base_tensors")
    place = absolute_name(name, path.parent, fingerprint)
    return BaseRecord(place, metadata.get("base_revision") or None, fingerprint, tensors)


def _base_rows(path: Path, metadata: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> dict[str, int]:
    """Return how many rows the base has of tensors of which base and fine-tune have different numbers."""
    found = header_json(path, metadata, "base_rows")
    try:
        are_rows = all(entries[name].shape and type(rows) is int and rows > 0 for name, rows in found.items())
    except (ValueError, AttributeError, KeyError):
        are_rows = False
    if not are_rows:
        raise VectorError(f"{path} has a broken header: 'base_rows' does not count rows of deltas", "Extract it again.")
    return found


def _table(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, str]:
    table = header_json(path, metadata, key)
    if not all(isinstance(value, str) for value in table.values()):
        raise VectorError(f"{path} has a broken header: '{key}' is not a map of names", "Extract it again.")
    return table
