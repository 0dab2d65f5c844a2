"""What every form of task vector offers: which tensors it moves, and their deltas, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from taskarith.arithmetic.kernels import from_bytes
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, hasher

__all__ = ["BaseRecord", "DeltaReader", "TensorPieces", "Vector"]


@dataclass(frozen=True)
class BaseRecord:
    """The base that a vector was made from.

    :param name: As the user named it: a path or a hub id.
    :param revision: Commit of a hub model.
    :param fingerprint: Of all its tensors; empty where it is not known.
    :param tensors: Fingerprint of each tensor; empty where they are not known.
    """

    name: str
    revision: str | None = None
    fingerprint: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


class DeltaReader(Protocol):
    """The delta of one tensor, read from its first element to its last."""

    def read(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Return elements ``start`` to ``stop`` (row-major) as flat float64 on ``device``."""

    def fingerprint(self) -> str:
        """Return the fingerprint of what was read, valid after the last element."""


class Vector(Protocol):
    """A task vector: delta = finetuned - base, by tensor name.

    ``shapes`` are the tensors it moves. ``known`` are all tensors of its base (None: it may move any base that has
    ``shapes``, as an adapter does). ``tied`` maps tensors that only its base stores to the one they are tied to.
    """

    name: str
    kind: str
    base: BaseRecord | None
    shapes: Mapping[str, tuple[int, ...]]
    known: frozenset[str] | None
    tied: Mapping[str, str]

    def open(self, tensor: str) -> DeltaReader:
        """Start reading the delta of one tensor of ``shapes``."""

    def close(self) -> None:
        """Close the files."""


class TensorPieces:
    """Reads one float tensor of a file from beginning to end and fingerprints it on the way."""

    def __init__(self, entry: TensorEntry, reader: TensorReader) -> None:
        self._entry, self._reader = entry, reader
        self._state = hasher(entry.dtype, entry.shape)

    def native(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Return elements ``start`` to ``stop`` in the dtype of the file."""
        size = ITEM_SIZES[self._entry.dtype]
        buffer = self._reader.read(self._entry, start * size, stop * size)
        self._state.update(buffer)
        return from_bytes(buffer, self._entry.dtype, device)

    def read(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Return elements ``start`` to ``stop`` as float64."""
        return self.native(start, stop, device).to(torch.float64)

    def fingerprint(self) -> str:
        """Return the fingerprint of what was read."""
        return self._state.hexdigest()
