"""What a tensor of a plan is calculated from: the inputs to read, and the recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from taskarith.arithmetic.recipe import Calculator, Recipe, Term
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import PrintedTensor, TensorReader
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError
from taskarith.vectors.form import Difference, Factored, Packed, Stored

__all__ = ["Calculation", "OpenInput", "calculated", "calculation", "open_inputs", "term_prints"]


@dataclass(frozen=True)
class Calculation:
    """How an edited tensor is calculated.

    :param base: The tensor that is edited.
    :param inputs: What is read, the base first; no tensor is read twice.
    :param recipe: What is done with it.
    :param prints: For each term the input whose fingerprint is that of its delta, or the fingerprint of its factors.
    :param against: For each packed input that is stored relative to a base the input that is this base.
    :param result: The input that is the result, bit for bit: a fine-tune that is decoded from the very tensor that is
        edited, with a coefficient of 1. None: the recipe says what the result is.
    """

    base: TensorEntry
    inputs: tuple[TensorEntry | Packed, ...]
    recipe: Recipe
    prints: tuple[int | str, ...]
    against: dict[int, int] = field(default_factory=dict)
    result: int | None = None


def calculation(plan: EditPlan, tensor: TensorPlan, dtype: str | None = None) -> Calculation:
    """Look up what a tensor of a plan is calculated from; ``dtype`` replaces that of the output."""
    inputs: list[TensorEntry | Packed] = [tensor.source]
    places = {_place(tensor.source): 0}
    against: dict[int, int] = {}

    def number(entry: TensorEntry) -> int:
        index = places.setdefault(_place(entry), len(inputs))
        if index == len(inputs):
            inputs.append(entry)
        return index

    terms, prints = [], []
    for term in tensor.terms:
        match plan.operands[term.operand].vector.delta(term.delta):
            case Stored(delta):
                terms.append(Term(term.coefficient, number(delta)))
                prints.append(number(delta))
            case Difference(finetuned, base):
                terms.append(Term(term.coefficient, number(finetuned), number(base)))
                prints.append(number(finetuned))
            case Factored(factors, fingerprint):
                terms.append(Term(term.coefficient, factors))
                prints.append(fingerprint)
            case Packed() as packed:
                origin = None if packed.base is None else number(_origin(packed.base, term.delta, tensor))
                if origin is not None:
                    against[len(inputs)] = origin
                terms.append(Term(term.coefficient, len(inputs), origin))
                prints.append(len(inputs))
                inputs.append(packed)
    recipe = Recipe(tuple(entry.dtype for entry in inputs), tuple(terms), dtype or tensor.dtype)
    return Calculation(tensor.source, tuple(inputs), recipe, tuple(prints), against, _result(recipe, against))


def _origin(base: TensorEntry, delta: str, tensor: TensorPlan) -> TensorEntry:
    """Return what a delta is decoded against: the edited tensor itself where it repeats that of its own base."""
    is_own = os.path.realpath(base.path.parent) == os.path.realpath(tensor.source.path.parent)
    return tensor.source if is_own and delta != tensor.source.name else base


def _result(recipe: Recipe, against: dict[int, int]) -> int | None:
    if len(recipe.terms) != 1 or recipe.terms[0].coefficient != 1 or against.get(1) != 0:
        return None
    return 1 if recipe.dtypes[1] == recipe.dtypes[0] == recipe.output else None


class OpenInput:
    """An input that is read, or decoded, from beginning to end."""

    def __init__(self, what: Calculation, index: int, reader: TensorReader, calculator: Calculator) -> None:
        entry = what.inputs[index]
        self._source = entry.open(reader) if isinstance(entry, Packed) else PrintedTensor(entry, reader)
        self._size = ITEM_SIZES[entry.dtype]
        self._against, self._calculator = what.against.get(index), calculator

    def fill(self, room: memoryview) -> None:
        """Read the next elements into all of ``room``; the base that they are relative to has been read before."""
        if isinstance(self._source, PrintedTensor):
            self._source.fill(room)
        else:
            origin = self._against
            base = None if origin is None else self._calculator.room(origin, len(room) // self._size)
            self._source.fill(room, base)

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


def term_prints(what: Calculation, inputs: Sequence[OpenInput]) -> list[str]:
    """Return the fingerprint of each term's delta, after all inputs have been read to their ends.

    :raises MismatchError: What is stored relative to a base was decoded against another one.
    """
    for index, origin in what.against.items():
        packed = what.inputs[index]
        if isinstance(packed, Packed) and packed.expected not in {"", inputs[origin].fingerprint()}:
            raise MismatchError(
                f"{what.base.name} cannot be decoded: an exact vector needs the base that it was made from, to the bit",
                "Give it that base, as recorded (taskarith inspect VECTOR), or extract it again without --exact.",
            )
    return [item if isinstance(item, str) else inputs[item].fingerprint() for item in what.prints]


def _place(entry: TensorEntry) -> tuple[str, int, str]:
    return os.path.realpath(entry.path), entry.offset, entry.name
