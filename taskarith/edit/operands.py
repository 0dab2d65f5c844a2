"""The operands of one edit: opened vectors with their coefficients, checked against the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.edit import Edit
from taskarith.edit.misfit import absent_error, check_editable, unknown_error
from taskarith.edit.scales import tensor_factors
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, Scales
from taskarith.vectors.bases import OwnBase
from taskarith.vectors.buffers import is_buffer
from taskarith.vectors.file import DenseVector, VectorFile
from taskarith.vectors.one_sided import check_whole
from taskarith.vectors.open import CommonBase, OpenedVector, open_vector, open_weights
from taskarith.vectors.pair import PairVector, find_tied
from taskarith.vectors.vector import BaseRecord, Difference, Stored, Vector
from taskarith.vectors.vocabulary import differ_in_rows, is_vocabulary

__all__ = [
    "ROWWISE",
    "Operand",
    "check_bases",
    "new_rows",
    "open_edit",
    "open_operands",
    "read_bases",
    "with_coefficients",
]

ROWWISE = {"dense", "finetuned"}
"""Kinds of vectors of which the first rows can be read alone."""


@dataclass(frozen=True)
class Operand:
    """A vector that fits the base, and what it is multiplied by.

    :param vector: The opened vector.
    :param coefficient: Sign included.
    :param tied: Tensors of the base, mapped to the tensor whose delta they take.
    :param factors: What multiplies the coefficient of a delta; 1 where none is given.
    :param role: Empty if it is added; see ``spec.OperandRef``.
    :param ignored: Buffers that only one side has and that were left out.
    :param own: The model that its deltas are differences to, where they are taken against that; see ``OpenedVector``.
    """

    vector: Vector
    coefficient: float
    tied: dict[str, str]
    factors: Mapping[str, float] = field(default_factory=dict)
    role: str = ""
    ignored: tuple[str, ...] = ()
    own: OwnBase | None = None

    @property
    def base(self) -> BaseRecord | None:
        """The model that it was made from; without a fingerprint if that is the model that is edited."""
        return self.own.record if self.own is not None else self.vector.base

    def delta_of(self, tensor: str) -> str | None:
        """Return the name of the delta that moves a tensor of the base, or None."""
        name = self.tied.get(tensor, tensor)
        return name if name in self.vector.shapes else None

    def decisions(self) -> list[Any]:
        """Return what was decided about it, for JSON: methods look at vectors that do not move a tensor, too."""
        factors = {name: float(factor).hex() for name, factor in sorted(self.factors.items())}
        shapes = {name: list(shape) for name, shape in sorted(self.vector.shapes.items())}
        how = [self.vector.kind, self.role, float(self.coefficient).hex(), factors]
        return [*how, shapes, sorted(self.tied.items()), list(self.ignored)]

    def coefficient_of(self, delta: str) -> float:
        """Return what one delta is multiplied by."""
        return self.coefficient * self.factors.get(delta, 1.0)


def named_paths(references: Iterable[OperandRef]) -> list[str]:
    """Return what operands name: vectors, and bases that are given with them."""
    return [name for one in references for name in (one.name, one.base) if name]


def open_edit(edit: Edit, base: Checkpoint, listener: Listener = SILENT) -> list[Operand]:
    """Open the vectors of an edit; see ``open_operands``."""
    return open_operands(
        edit.operands,
        base,
        listener,
        edit.scale,
        shared_vocabulary=edit.vocab is not None,
        ignore_buffers=edit.ignore_buffers,
    )


def open_operands(
    references: Sequence[OperandRef],
    base: Checkpoint,
    listener: Listener = SILENT,
    scale: Scales | None = None,
    *,
    common: CommonBase | None = None,
    shared_vocabulary: bool = False,
    ignore_buffers: bool = False,
) -> list[Operand]:
    """Open the vectors and check that each fits the base.

    :param references: As the user named them.
    :param base: The checkpoint to edit.
    :param listener: Receives notes about downloads.
    :param scale: Multiplies the coefficients of all of them, beside the scale that each has of its own.
    :param common: What the user has said about the base of all of them.
    :param shared_vocabulary: Where vocabularies differ in size, edit the rows that all have.
    :param ignore_buffers: Leave out buffers that a vector, its base or the model has alone.
    :raises UsageError: A scale names no tensor, or nothing says what a fine-tune is a difference to.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the model that it was made from is not found.
    """
    operands = []
    for reference in references:
        if reference.role == "weights":
            opened = OpenedVector(open_weights(reference.name))
        else:
            opened = open_vector(
                reference,
                base,
                listener,
                common=common,
                shared_vocabulary=shared_vocabulary,
                ignore_buffers=ignore_buffers,
            )
        vector = opened.vector
        if not shared_vocabulary and (rows := new_rows(vector)):
            raise MismatchError(
                f"{vector.name} has rows of new tokens, which its base does not have: {name_some(list(rows))}",
                "taskarith apply --vocab union gives them to the model; --vocab intersection leaves them out.",
            )
        ignored = _lone_buffers(vector, base) if ignore_buffers else ()
        tied = _fit(vector, base, shared_vocabulary, ignored)
        factors = _factors(reference.scale, scale or {}, base, tied)
        operands.append(Operand(vector, reference.coefficient, tied, factors, reference.role, ignored, opened.own))
    return operands


def new_rows(vector: Vector) -> Mapping[str, TensorEntry]:
    """Return the rows of new tokens: what a fine-tune has below the last row that its base has, by tensor."""
    return vector.new_rows if isinstance(vector, PairVector | DenseVector) else {}


def check_bases(operands: Sequence[Operand], tensors: Mapping[str, str]) -> None:
    """Compare what operands record of their base with the model, where their deltas are taken against that.

    :param tensors: The fingerprint of each tensor of the model.
    :raises MismatchError: An operand was made from another model.
    """
    for operand in operands:
        if operand.own is not None:
            operand.own.check(tensors)


def read_bases(operands: Sequence[Operand], base: Checkpoint, listener: Listener = SILENT) -> None:
    """Do the same for a model that nobody reads from end to end.

    :raises MismatchError: An operand was made from another model.
    """
    if any(operand.own is not None and operand.own.is_unread for operand in operands):
        check_bases(operands, fingerprint_tensors(base, listener))


def with_coefficients(operands: Sequence[Operand], edit: Edit, base: Checkpoint) -> list[Operand]:
    """Return opened operands with the coefficients and scales of another edit by the same vectors.

    :param base: The checkpoint that they were opened for.
    """
    return [
        replace(one, coefficient=reference.coefficient, factors=_factors(reference.scale, edit.scale, base, one.tied))
        for one, reference in zip(operands, edit.operands, strict=True)
    ]


def _factors(own: Scales, common: Scales, base: Checkpoint, tied: Mapping[str, str]) -> dict[str, float]:
    """Multiply the two scales tensor by tensor; a tied tensor has the factor of the tensor that it is tied to."""
    names = list(base.tensors)
    first, second = tensor_factors(own, names), tensor_factors(common, names)
    factors = {name: first.get(name, 1.0) * second.get(name, 1.0) for name in first.keys() | second.keys()}
    odd = [name for name, to in tied.items() if name in factors and factors[name] != factors.get(to, 1.0)]
    if odd:
        raise UsageError(
            f"{odd[0]} is tied to {tied[odd[0]]} and cannot be scaled otherwise",
            f"Scale {tied[odd[0]]}: what is tied to it goes with it.",
        )
    return factors


def _lone_buffers(vector: Vector, base: Checkpoint) -> tuple[str, ...]:
    """Return the buffers that a vector and its own base do not share, and those that one of it and the model has."""
    found = dict.fromkeys(vector.ignored if isinstance(vector, PairVector) else ())
    entries = [base.tensors[name] for name in base.tensors.keys() - (vector.known or base.tensors.keys())]
    for name in vector.shapes.keys() - base.tensors.keys():
        delta = vector.delta(name)
        entries += [delta.base] if isinstance(delta, Difference) else []
    with TensorReader() as reader:
        return tuple(found | dict.fromkeys(sorted(one.name for one in entries if is_buffer(one, reader))))


def _fit(vector: Vector, base: Checkpoint, shared_vocabulary: bool, ignored: Sequence[str]) -> dict[str, str]:
    absent = [name for name in vector.shapes if name not in base.tensors and name not in ignored]
    if absent:
        raise absent_error(vector, base, absent)
    shapes = {name: shape for name, shape in vector.shapes.items() if name in base.tensors}
    check_editable(vector, base, shapes)
    check_whole(base, shapes, vector.name)
    differ = [name for name, shape in shapes.items() if base.tensors[name].shape != shape]
    is_grown = vector.kind in ROWWISE and all(
        differ_in_rows(base.tensors[name].shape, shapes[name]) and is_vocabulary(base, name) for name in differ
    )
    wrong = [
        f"{name} {list(shape)} against {list(base.tensors[name].shape)}"
        for name, shape in shapes.items()
        if name in differ and not (shared_vocabulary and is_grown)
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of {vector.name} do not have the shape that {base.path} has: {name_some(wrong)}",
            "Only the vocabulary differs: --vocab intersection edits the rows that both have, --vocab union adds the "
            "others that the vector has."
            if differ and is_grown
            else f"It was made from {vector.base or 'another model'}: apply it to a model of that size.",
        )
    return _cover(vector, base, ignored)


def _cover(vector: Vector, base: Checkpoint, ignored: Sequence[str]) -> dict[str, str]:
    """Find what a complete vector says of each tensor of the base: a delta, nothing to do, or tied to another."""
    tied = {name: to for name, to in vector.tied.items() if name in base.tensors}
    if vector.known is None:
        return tied
    apart = {*tied, *ignored, *(scaling.scale.name for scaling in base.scalings.values())}
    alone = [name for name in base.tensors if name not in vector.known and name not in apart]
    if alone:
        with TensorReader() as reader:
            tied |= find_tied(base, set(vector.known), reader, lambda name: _moved(vector, name, reader))
    lost = [name for name in alone if name not in tied]
    if lost:
        raise unknown_error(vector, base, lost)
    return tied


def _moved(vector: Vector, name: str, reader: TensorReader) -> str:
    """Return what is the same for two tensors that a vector moves alike."""
    if name not in vector.shapes:
        return ""
    match vector.delta(name):
        case Stored(delta):
            return reader.fingerprint(delta)
        case Difference(finetuned, base):
            return reader.fingerprint(finetuned) + reader.fingerprint(base)
    return vector.recorded.get(name, name) if isinstance(vector, VectorFile) else name
