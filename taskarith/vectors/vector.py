"""What every form of task vector offers: which tensors it moves, and where their deltas come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taskarith.arithmetic.calculator import LowRank
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel

__all__ = ["BaseRecord", "Delta", "Difference", "Factored", "Packed", "Stored", "Stream", "Vector"]


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
    tensors: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: ResolvedModel, tensors: Mapping[str, str] | None = None) -> BaseRecord:
        """Return how a model is recorded.

        :param model: Where it was found.
        :param tensors: Fingerprint of each of its tensors; None where it has not been read.
        """
        fingerprint = combine_fingerprints(dict(tensors)) if tensors else ""
        return cls(model.recorded_name, model.revision, fingerprint, tensors or {})

    @classmethod
    def named(cls, record: object) -> BaseRecord:
        """Read what ``to_json`` returned.

        :raises KeyError: No model is named.
        """
        found = cls.from_json(record)
        if found is None:
            raise KeyError("name")
        return found

    @classmethod
    def from_json(cls, record: object) -> BaseRecord | None:
        """Read what ``to_json`` returned; None where no base is named."""
        if not isinstance(record, Mapping) or not record.get("name"):
            return None
        revision, fingerprint = record.get("revision"), record.get("fingerprint")
        return cls(str(record["name"]), str(revision) if revision else None, str(fingerprint or ""))

    def to_json(self) -> dict[str, str | None]:
        """Return what a record says of it, without the fingerprint of each tensor."""
        return {"name": self.name, "revision": self.revision, "fingerprint": self.fingerprint}

    def differing(self, tensors: Mapping[str, str]) -> int:
        """Return the number of tensors that are not as recorded, as far as that is known of each.

        :param tensors: Fingerprint of each tensor of another model.
        """
        names = self.tensors.keys() | tensors.keys() if self.tensors else ()
        return sum(self.tensors.get(name) != tensors.get(name) for name in names)

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


class Stream(Protocol):
    """Decodes one tensor from its first element to its last."""

    def read_into(self, out: memoryview, base: memoryview | None) -> None:
        """Decode the next elements into all of ``out``.

        :param out: Bytes for whole elements.
        :param base: The bytes of the same elements of the base, for a tensor that is stored relative to it.
        """

    def skip(self, elements: int) -> None:
        """Leave out elements; the fingerprint is not valid afterwards."""

    def fingerprint(self) -> str:
        """Return the fingerprint of what is stored, valid after the last element."""


@dataclass(frozen=True)
class Packed:
    """A delta that is decoded while it is read.

    :param dtype: Of the decoded elements, as safetensors names it.
    :param nbytes: Bytes stored.
    :param open: Gives a new stream.
    :param base: The tensor of the base that it is stored relative to: then what is decoded is the fine-tuned tensor, in
        the same dtype, and the delta is its difference to the base. None: what is decoded is the delta.
    :param expected: The fingerprint that this tensor of the base must have; empty if any will do.
    """

    dtype: str
    nbytes: int
    open: Callable[[TensorReader], Stream]
    base: TensorEntry | None = None
    expected: str = ""


Delta = Stored | Difference | Factored | Packed


class Vector(Protocol):
    """A task vector: delta = finetuned - base, by tensor name.

    ``shapes`` are the tensors it moves. ``known`` are all tensors of its base (None: it may move any base that has
    ``shapes``, as an adapter does). ``tied`` maps tensors that only its base stores to the one they are tied to.
    ``files`` are all that is read, ``remarks`` what the user should know of how it was understood.
    """

    name: str
    kind: str
    base: BaseRecord | None
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    known: frozenset[str] | None
    tied: Mapping[str, str]
    remarks: tuple[str, ...]

    def delta(self, tensor: str) -> Delta:
        """Return where the delta of one tensor of ``shapes`` comes from."""
