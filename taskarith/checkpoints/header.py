"""Read and build safetensors headers; nothing is believed before it has been checked.

Format: 8 bytes little-endian header length, a JSON object, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskarith.checkpoints.digests import UNSEALED, is_sealed, seal
from taskarith.errors import CheckpointError, name_some
from taskarith.untrusted import open_regular, parse_json

__all__ = [
    "FLOAT_DTYPES",
    "ITEM_SIZES",
    "SEAL",
    "Header",
    "TensorEntry",
    "build_header",
    "file_state",
    "header_is_sealed",
    "parse_header",
    "read_header",
]

ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element of every dtype that can be read or copied; F4 and F6, of less than a byte, cannot."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""The dtypes that arithmetic is defined on."""

SEAL = "header_sha256"
"""The key of a header's metadata under which it has its own digest."""

_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library itself


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file: where its bytes lie and what they mean.

    ``offset`` counts from the start of the file; ``state`` is that of the file when its header was read, or empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    state: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a zero-dimensional tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.elements * ITEM_SIZES[self.dtype]

    @property
    def is_float(self) -> bool:
        """Whether arithmetic is defined on this tensor; others are copied."""
        return self.dtype in FLOAT_DTYPES


@dataclass(frozen=True)
class Header:
    """All of one file: its tensors in the order of their bytes, and its string metadata."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor is read.

    :raises CheckpointError: The file is missing, not a regular file, truncated, or its header lies: an absurd length,
        no JSON, names twice or with half characters, sizes that do not follow from shapes, overlaps, gaps, or bytes
        beyond the end. Or it has tensors of a dtype that is not known.
    """
    try:
        raw, status = _read_raw(path)
    except ValueError as error:
        raise _broken(path, str(error)) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, up to Python 3.12
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot read {path}: {reason}", "Check the path and its permissions.") from error
    return _parse(raw, path, status.st_size, file_state(status))


def file_state(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file: device, inode, size, times of the last write and of the last change (ns).

    A program can set the first time back, but not the second.
    """
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def parse_header(data: bytes, path: Path) -> Header:
    """Read and check the header of a safetensors file of which only the first bytes are at hand.

    :param data: The bytes before the first tensor.
    :param path: The file that they belong to.
    :raises CheckpointError: As in ``read_header``.
    """
    length = int.from_bytes(data[:8], "little")
    if length + 8 != len(data):
        raise _broken(path, "its header is cut off")
    return _parse(data[8:], path, None)


def _parse(raw: bytes, path: Path, size: int | None, state: tuple[int, ...] = ()) -> Header:
    try:
        table = parse_json(raw, _unique)
        if not isinstance(table, dict):
            raise ValueError("the header is not a JSON object")
        metadata = table.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is not a map from strings to strings")
        start = 8 + len(raw)
        tensors = _tensors(table, path, start, state)
        _check_layout(tensors, start, start + sum(t.nbytes for t in tensors) if size is None else size)
    except ValueError as error:
        raise _broken(path, str(error)) from error
    return Header(tensors, metadata)


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], length: int = 0
) -> tuple[bytes, dict[str, int]]:
    """Build the first bytes of a safetensors file, padded with spaces so that tensors start at a multiple of 8.

    :param tensors: Name, dtype and shape of each tensor, in the order of their bytes.
    :param metadata: String to string; ``UNSEALED`` in it is replaced by the digest of the header.
    :param length: Pad to at least this many bytes: room kept for metadata that is known only at the end.
    :returns: The bytes, and the offset of each tensor from the start of the file.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position, places = 0, {}
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * ITEM_SIZES[dtype]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        places[name], position = position, end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    total = max(8 + len(text), length)
    total += -total % 8
    header = (total - 8).to_bytes(8, "little") + text.ljust(total - 8)
    if metadata.get(SEAL) == UNSEALED:
        header = seal(header)
    return header, {name: total + place for name, place in places.items()}


def header_is_sealed(path: Path, metadata: Mapping[str, str]) -> bool | None:
    """Tell whether the header of a file is as it was written; None if it has no digest of itself.

    :param path: A file whose header has been read.
    :param metadata: What was read.
    """
    if SEAL not in metadata:
        return None
    raw, _ = _read_raw(path)
    return is_sealed((len(raw)).to_bytes(8, "little") + raw, metadata[SEAL])


def _read_raw(path: Path) -> tuple[bytes, os.stat_result]:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > status.st_size - 8:
            raise _broken(path, f"it ends inside its header ({status.st_size} bytes)")
        if length > _LONGEST_HEADER:
            raise _broken(path, f"its header claims {length} bytes")
        return file.read(length), status


def _tensors(table: Mapping[str, Any], path: Path, start: int, state: tuple[int, ...]) -> tuple[TensorEntry, ...]:
    found, unknown = [], []
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise ValueError(f"tensor '{name}' has no description")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise ValueError(f"tensor '{name}' has no valid shape and offsets")
        if not isinstance(dtype, str):
            raise ValueError(f"tensor '{name}' has no dtype")
        if dtype not in ITEM_SIZES:
            unknown.append(f"{name} ({ascii(dtype)[1:-1]})")
            continue
        tensor = TensorEntry(name, dtype, tuple(shape), path, start + offsets[0], state)
        if offsets[1] - offsets[0] != tensor.nbytes:
            raise ValueError(f"tensor '{name}' of {dtype} {shape} cannot have {offsets[1] - offsets[0]} bytes")
        found.append(tensor)
    if unknown:
        raise CheckpointError(
            f"{path} has {len(unknown)} tensors of a dtype that is not known here: {name_some(unknown)}",
            f"Use the model in its original precision, such as bfloat16: tensors are {', '.join(ITEM_SIZES)}.",
        )
    return tuple(sorted(found, key=lambda tensor: (tensor.offset, tensor.nbytes)))


def _check_layout(tensors: tuple[TensorEntry, ...], start: int, end: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset != position:
            raise ValueError(f"tensor '{tensor.name}' overlaps another one or leaves a gap before it")
        position += tensor.nbytes
    if position != end:
        raise ValueError(f"its tensors end at byte {position}, the file at byte {end}")


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return table


def _broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a sound safetensors file: {reason}",
        "Download or save it again; taskarith reads nothing through a header it cannot trust.",
    )
