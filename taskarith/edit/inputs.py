"""What a tensor of a plan is calculated from: the inputs to read, and the recipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from taskarith.arithmetic.calculator import Calculator, Recipe, Term
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import HashingTensor, TensorReader
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError
from taskarith.vectors.vector import Delta, Difference, Factored, Packed, Stored, Vector
from taskarith.vectors.vocabulary import first_rows

__all__ = [
    "NOTHING",
    "Calculation",
    "OpenInput",
    "calculated",
    "calculation",
    "gather",
    "kernels_for",
    "kernels_of",
    "open_inputs",
    "term_fingerprints",
]


class _Zeros:
    """A tensor of zeros, of any length; nothing is stored of it."""

    def __init__(self, reader: TensorReader) -> None:
        del reader

    def read_into(self, out: memoryview, base: memoryview | None) -> None:
        """Write zeros."""
        del base
        out[:] = bytes(len(out))

    def skip(self, elements: int) -> None:
        """Do nothing: all are alike."""

    def fingerprint(self) -> str:
        """Return nothing: nothing is stored."""
        return ""


NOTHING = Packed("F32", 0, _Zeros)
"""The base of what is not an edit of a model: zeros."""


@dataclass(frozen=True)
class Calculation:
    """How an edited tensor is calculated.

    :param inputs: What is read, the base first; no tensor is read twice.
    :param recipe: What is done with it.
    :param fingerprints: For each term the input that has its fingerprint, or the fingerprint of its factors.
    :param against: For each packed input that is stored relative to a base the input that is this base.
    :param result: The input that is the result, bit for bit: a fine-tune that is decoded from the very tensor that is
        edited, with a coefficient of 1. None: the recipe says what the result is.
    """

    inputs: tuple[TensorEntry | Packed, ...]
    recipe: Recipe
    fingerprints: tuple[int | str, ...]
    against: dict[int, int] = field(default_factory=dict)
    result: int | None = None


def calculation(plan: EditPlan, tensor: TensorPlan, dtype: str | None = None) -> Calculation:
    """Look up what a tensor of a plan is calculated from; ``dtype`` replaces that of the output."""
    deltas = [(term.coefficient, plan.operands[term.operand].vector.delta(term.delta)) for term in tensor.terms]
    return gather(tensor.source, tensor.source.shape, deltas, dtype or tensor.dtype)


def gather(
    base: TensorEntry | Packed, shape: tuple[int, ...], deltas: Sequence[tuple[float, Delta]], dtype: str
) -> Calculation:
    """Collect what ``base + sum of coefficient * delta`` is calculated from.

    :param base: The first input.
    :param shape: Its shape; a tensor with other rows, of a larger or smaller vocabulary, is taken for the shared ones.
    :param deltas: Coefficients and deltas.
    :param dtype: Of the output.
    """
    inputs: list[TensorEntry | Packed] = [base]
    places = {_place(base): 0} if isinstance(base, TensorEntry) else {}
    against: dict[int, int] = {}

    def number(entry: TensorEntry, *others: TensorEntry) -> int:
        shapes = [shape, *(other.shape for other in others)]
        if any(other != entry.shape for other in shapes):
            entry = first_rows(entry, min(one[0] for one in (entry.shape, *shapes)))
        index = places.setdefault(_place(entry), len(inputs))
        if index == len(inputs):
            inputs.append(entry)
        return index

    terms, fingerprints = [], []
    for coefficient, form in deltas:
        match form:
            case Stored(delta):
                terms.append(Term(coefficient, number(delta)))
                fingerprints.append(number(delta))
            case Difference(finetuned, origin):
                terms.append(Term(coefficient, number(finetuned, origin), number(origin, finetuned)))
                fingerprints.append(number(finetuned, origin))
            case Factored(factors, fingerprint):
                terms.append(Term(coefficient, factors))
                fingerprints.append(fingerprint)
            case Packed() as packed:
                row = None if packed.base is None else number(_origin(packed.base, base))
                if row is not None:
                    against[len(inputs)] = row
                terms.append(Term(coefficient, len(inputs), row))
                fingerprints.append(len(inputs))
                inputs.append(packed)
    recipe = Recipe(tuple(entry.dtype for entry in inputs), tuple(terms), dtype)
    return Calculation(tuple(inputs), recipe, tuple(fingerprints), against, _result(recipe, against))


def _origin(base: TensorEntry, edited: TensorEntry | Packed) -> TensorEntry:
    """Return what a delta is decoded against: the edited tensor itself where it repeats that of its own base."""
    if isinstance(edited, Packed) or base.name == edited.name:
        return base
    return edited if os.path.realpath(base.path.parent) == os.path.realpath(edited.path.parent) else base


def _result(recipe: Recipe, against: dict[int, int]) -> int | None:
    if len(recipe.terms) != 1 or recipe.terms[0].coefficient != 1 or against.get(1) != 0:
        return None
    return 1 if recipe.dtypes[1] == recipe.dtypes[0] == recipe.output else None


def kernels_for(group: str, vectors: Iterable[Vector]) -> tuple[str, ...]:
    """Return the groups of compiled kernels that are called where vectors are read: factors need one of their own."""
    return (group, "low_rank") if any(vector.kind == "lora" for vector in vectors) else (group,)


def kernels_of(plan: EditPlan) -> tuple[str, ...]:
    """Return the groups of compiled kernels that an edit calls."""
    groups = kernels_for("linear", (operand.vector for operand in plan.operands))
    return groups if plan.edit.method.is_linear else (*groups, "merge")


class OpenInput:
    """An input that is read, or decoded, from beginning to end; where it has fewer rows than the base, zeros follow."""

    def __init__(self, what: Calculation, index: int, reader: TensorReader, calculator: Calculator) -> None:
        entry = what.inputs[index]
        self._source = entry.open(reader) if isinstance(entry, Packed) else HashingTensor(entry, reader)
        self._size = ITEM_SIZES[entry.dtype]
        self._against, self._calculator = what.against.get(index), calculator
        self._left = entry.nbytes

    def read_into(self, out: memoryview) -> None:
        """Read the next elements into all of ``out``; the base that they are relative to has been read before."""
        if isinstance(self._source, HashingTensor):
            stored = min(len(out), self._left)
            self._source.read_into(out[:stored])
            out[stored:] = bytes(len(out) - stored)
            self._left -= stored
        else:
            origin = self._against
            base = None if origin is None else self._calculator.room(origin, len(out) // self._size)
            self._source.read_into(out, base)

    def fingerprint(self) -> str:
        """Return the fingerprint of what was read, valid after the last element."""
        return self._source.fingerprint()


def open_inputs(what: Calculation, reader: TensorReader, calculator: Calculator) -> list[OpenInput]:
    """Open all inputs of a tensor.

    :param what: What is calculated.
    :param reader: Reads them.
    :param calculator: Has begun the tensor; its rooms hold the base when what is relative to it is decoded.
    """
    return [OpenInput(what, index, reader, calculator) for index in range(len(what.inputs))]


def calculated(what: Calculation, calculator: Calculator, start: int, stop: int) -> tuple[memoryview, bool]:
    """Return the bytes of the result of a chunk, valid until the next one, and whether all of it is finite.

    A fine-tune that is restored to the bit is taken as it is, whatever is in it.
    """
    if what.result is not None:
        return calculator.room(what.result, stop - start), True
    return calculator.linear(start, stop)


def term_fingerprints(what: Calculation, inputs: Sequence[OpenInput]) -> list[str]:
    """Return the fingerprint of each term's delta, after all inputs have been read to their ends.

    :raises MismatchError: What is stored relative to a base was decoded against another one.
    """
    for index, origin in what.against.items():
        packed = what.inputs[index]
        if isinstance(packed, Packed) and packed.expected not in {"", inputs[origin].fingerprint()}:
            raise MismatchError(
                f"{packed.base.name if packed.base else 'a delta'} cannot be decoded: "
                "an exact vector needs the base that it was made from, to the bit",
                "Give it that base, as recorded (taskarith inspect VECTOR), or extract it again without --exact.",
            )
    return [item if isinstance(item, str) else inputs[item].fingerprint() for item in what.fingerprints]


def _place(entry: TensorEntry) -> tuple[str, int, str, int]:
    return os.path.realpath(entry.path), entry.offset, entry.name, entry.nbytes
