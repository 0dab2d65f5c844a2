"""What every form of task vector offers: which tensors it moves, and where their deltas come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taskarith.arithmetic.recipe import LowRank
from taskarith.checkpoints.header import TensorEntry

__all__ = ["BaseRecord", "Delta", "Difference", "Factored", "Stored", "Vector"]


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


@dataclass(frozen=True)
class Stored:
    """A delta that lies in a file."""

    delta: TensorEntry


@dataclass(frozen=True)
class Difference:
    """A delta that is subtracted while it is read: ``finetuned - base``."""

    finetuned: TensorEntry
    base: TensorEntry


@dataclass(frozen=True)
class Factored:
    """A delta of low rank that is multiplied out while it is used.

    :param factors: In float64.
    :param fingerprint: Of the stored factors and their scale.
    """

    factors: LowRank
    fingerprint: str


Delta = Stored | Difference | Factored


class Vector(Protocol):
    """A task vector: delta = finetuned - base, by tensor name.

    ``shapes`` are the tensors it moves. ``known`` are all tensors of its base (None: it may move any base that has
    ``shapes``, as an adapter does). ``tied`` maps tensors that only its base stores to the one they are tied to.
    ``files`` are all that is read.
    """

    name: str
    kind: str
    base: BaseRecord | None
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    known: frozenset[str] | None
    tied: Mapping[str, str]

    def delta(self, tensor: str) -> Delta:
        """Return where the delta of one tensor of ``shapes`` comes from."""
