"""A fine-tuned checkpoint against its base: which tensors correspond, and their deltas on the fly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.form import BaseRecord, Difference
from taskarith.vectors.vocabulary import differ_in_rows, is_vocabulary

__all__ = ["PairVector", "Pairing", "find_tied", "pair_checkpoints"]


@dataclass(frozen=True)
class Pairing:
    """How the tensors of a fine-tune correspond to those of its base.

    :param floats: Tensors to subtract, in the order of the base.
    :param others: Integer and boolean tensors, found to be equal on both sides.
    :param tied: Tensors that only one side stores, mapped to the tensor of both sides whose bits they repeat there.
    """

    floats: tuple[str, ...]
    others: tuple[str, ...]
    tied: dict[str, str]


def pair_checkpoints(base: Checkpoint, finetuned: Checkpoint, *, shared_vocabulary: bool = False) -> Pairing:
    """Match two checkpoints tensor by tensor.

    A tensor on one side only is accepted when it is a matrix that repeats, bit for bit on that side, a tensor that
    both have: a tied head that one of them stores and the other does not.

    :param base: The base checkpoint.
    :param finetuned: The fine-tuned checkpoint.
    :param shared_vocabulary: Accept vocabularies of different sizes.
    :raises MismatchError: Names on one side only, shapes that differ, a float against an integer tensor, or integer
        tensors that differ.
    """
    for side in (base, finetuned):
        if side.scalings:
            raise MismatchError(
                f"{side.path} is stored as float8 with scales: differences of it would be mostly rounding",
                "Take the vector from the models before quantisation; it can be applied to the float8 one.",
            )
    common = [name for name in base.tensors if name in finetuned.tensors]
    with TensorReader() as reader:
        tied = find_tied(base, set(common), reader) | find_tied(finetuned, set(common), reader)
        _check_names(base, finetuned, tied)
        _check_shapes(base, finetuned, common, shared_vocabulary)
        floats = tuple(name for name in common if base.tensors[name].is_float)
        others = tuple(name for name in common if not base.tensors[name].is_float)
        odd = [
            name
            for name in others
            if reader.fingerprint(base.tensors[name]) != reader.fingerprint(finetuned.tensors[name])
        ]
    if odd:
        raise MismatchError(
            f"{len(odd)} integer tensors differ between {base.path} and {finetuned.path}: {name_some(odd)}",
            "Integers have no task vector; use models whose buffers agree.",
        )
    return Pairing(floats, others, tied)


class PairVector:
    """``finetuned - base``, subtracted in float64 while it is read.

    :param base: The base checkpoint.
    :param finetuned: The fine-tuned checkpoint.
    :param record: The base as provenance.
    :param shared_vocabulary: Where the vocabularies differ in size, the vector has the rows that both have.
    :raises MismatchError: The two do not correspond.
    """

    kind: str = "finetuned"
    remarks: tuple[str, ...] = ()

    def __init__(
        self, base: Checkpoint, finetuned: Checkpoint, record: BaseRecord, *, shared_vocabulary: bool = False
    ) -> None:
        pairing = pair_checkpoints(base, finetuned, shared_vocabulary=shared_vocabulary)
        self.name = str(finetuned.path)
        self.files: tuple[Path, ...] = tuple(
            {tensor.path for side in (base, finetuned) for tensor in side.tensors.values()}
        )
        self.base: BaseRecord | None = record
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: min(base.tensors[name].shape, finetuned.tensors[name].shape) for name in pairing.floats
        }
        self.known: frozenset[str] | None = frozenset(pairing.floats + pairing.others)
        self.tied: Mapping[str, str] = {name: to for name, to in pairing.tied.items() if name in base.tensors}
        self._base, self._finetuned = base.tensors, finetuned.tensors

    def delta(self, tensor: str) -> Difference:
        """Return the two tensors that are subtracted."""
        return Difference(self._finetuned[tensor], self._base[tensor])


def find_tied(side: Checkpoint, common: set[str], reader: TensorReader) -> dict[str, str]:
    """Map each matrix of a checkpoint that is not in ``common`` to one in ``common`` with the same bits."""
    alone = [entry for name, entry in side.tensors.items() if name not in common and len(entry.shape) >= 2]
    found = {}
    for entry in alone:
        alike = [
            other
            for name, other in side.tensors.items()
            if name in common and (other.shape, other.dtype) == (entry.shape, entry.dtype)
        ]
        print_ = reader.fingerprint(entry) if alike else ""
        for other in alike:
            if reader.fingerprint(other) == print_:
                found[entry.name] = other.name
                break
    return found


def _check_names(base: Checkpoint, finetuned: Checkpoint, tied: Mapping[str, str]) -> None:
    sides = ((base, finetuned), (finetuned, base))
    for side, other in sides:
        alone = [name for name in side.tensors if name not in other.tensors and name not in tied]
        if alone:
            raise MismatchError(
                f"{len(alone)} tensors of {side.path} are not in {other.path}: {name_some(alone)}",
                "Nothing is left out silently: save both with the same transformers class and version.",
            )


def _check_shapes(base: Checkpoint, finetuned: Checkpoint, common: list[str], shared_vocabulary: bool) -> None:
    kinds = [name for name in common if base.tensors[name].is_float != finetuned.tensors[name].is_float]
    if kinds:
        raise MismatchError(
            f"{len(kinds)} tensors are floats on one side and integers on the other: {name_some(kinds)}",
            "Save both models with plain float weights.",
        )
    differ = [name for name in common if base.tensors[name].shape != finetuned.tensors[name].shape]
    is_grown = [
        differ_in_rows(base.tensors[name].shape, finetuned.tensors[name].shape)
        and is_vocabulary(base, name)
        and is_vocabulary(finetuned, name)
        for name in differ
    ]
    if differ and not (shared_vocabulary and all(is_grown)):
        shapes = [
            f"{name} {list(base.tensors[name].shape)} against {list(finetuned.tensors[name].shape)}" for name in differ
        ]
        raise MismatchError(
            f"{len(shapes)} tensors of {base.path} and {finetuned.path} differ in shape: {name_some(shapes)}",
            "Only the vocabulary differs: taskarith apply --vocab intersection edits the rows that both have."
            if all(is_grown)
            else "This is another base.",
        )
