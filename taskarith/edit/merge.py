"""Stream the deltas of one tensor through an operator that is not linear, and add the result to the base."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from taskarith.arithmetic.calculator import Calculator, Recipe, Term
from taskarith.arithmetic.parallel import chunks, filled_chunks
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.inputs import Calculation, OpenInput, open_inputs
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError
from taskarith.merging.combination import Combination
from taskarith.merging.methods import METHODS
from taskarith.merging.operator import Operator, Setting
from taskarith.merging.overflow import naming_overflow

if TYPE_CHECKING:
    from taskarith.arithmetic.cpu import CpuCalculator

__all__ = ["PIECE_ELEMENTS", "Merge"]

PIECE_ELEMENTS = 1 << 17
"""Elements that an operator gets at a time, if they do not belong together with more; random masks depend on it."""

_BASE = Term(1.0, 0)


class Merge:
    """Calculates ``round(base + operator(deltas))`` of one tensor, in pieces that are cut at fixed places.

    A combination whose factors are known is linear: it is added up as by a linear edit.

    Deltas are ``finetuned - base`` in float64; the merged delta stays float64 until it is added and rounded once. The
    inputs are read once for every reading that the operator asks for, and once for the result.

    :param plan: The edit.
    :param tensor: One of its tensors.
    :param what: What it is calculated from.
    :param reader: Reads the inputs.
    :param calculator: Subtracts, adds and rounds; it begins this tensor.
    :param chunk: The most elements that it calculates at a time; it changes no bit.
    :param stop: Set when the run is given up.
    """

    def __init__(
        self,
        plan: EditPlan,
        tensor: TensorPlan,
        what: Calculation,
        reader: TensorReader,
        calculator: Calculator,
        chunk: int,
        stop: threading.Event,
    ) -> None:
        recipe = what.recipe
        self._what, self._reader, self._calculator, self._stop = what, reader, calculator, stop
        self._name, self._elements = tensor.source.name, tensor.source.elements
        self._operator: Operator | Combination = METHODS[plan.edit.method.name].load()(
            _setting(plan, tensor, calculator.device)
        )
        self._merged = len(recipe.dtypes)  # a merged delta is one input more
        is_combined = isinstance(self._operator, Combination)
        calculator.begin(
            recipe if is_combined else Recipe((*recipe.dtypes, "F64"), (Term(1.0, self._merged),), recipe.output)
        )
        span = max(1, self._operator.span)
        self._piece = span * max(1, PIECE_ELEMENTS // span)
        self._chunk, self._whole_chunk = min(chunk, PIECE_ELEMENTS), chunk
        room, self._size = min(self._piece, self._elements), ITEM_SIZES[what.inputs[0].dtype]
        self._stored = np.empty(room * self._size, np.uint8)
        self._rows = [(np.empty(room), term) for term in recipe.terms]
        if self._operator.wants_base:
            self._rows.append((np.empty(room), _BASE))
        self.inputs: list[OpenInput] = []

    def pieces(self) -> Iterator[tuple[memoryview, bool]]:
        """Return bytes, valid until the next ones, and whether all of them are finite.

        :raises MismatchError: A delta has values that are not finite, or too large for the method.
        """
        operator, calculator = self._operator, self._calculator
        while not operator.is_ready() and not self._stop.is_set():
            with naming_overflow(self._name), np.errstate(over="raise", invalid="raise"):
                self._scan()
                if not self._stop.is_set():
                    operator.end_scan()
        if isinstance(operator, Combination):
            if self._stop.is_set():
                return
            yield from self._combine(*operator.factors())
            return
        for start, deltas, base in self._read():
            with naming_overflow(self._name), np.errstate(all="ignore"):  # what overflows is found when it is rounded
                values = operator.merge(start, deltas, base)
            for first, last in chunks(len(values), self._chunk):
                _copy(self._stored[first * self._size : last * self._size], calculator.room(0, last - first))
                _copy(values[first:last], calculator.room(self._merged, last - first))
                yield calculator.linear(start + first, start + last)

    def _scan(self) -> None:
        """Read everything once for the operator."""
        operator = self._operator
        if isinstance(operator, Combination) and not operator.looks_at_deltas and self._calculator.is_compiled:
            self._add_products(operator, cast("CpuCalculator", self._calculator))
            return
        for _, deltas, base in self._read():
            operator.scan(deltas, base)

    def _add_products(self, operator: Combination, calculator: CpuCalculator) -> None:
        """Take scalar products of what is read as it comes, without keeping the deltas."""
        self.inputs = open_inputs(self._what, self._reader, calculator)
        for start, end in chunks(self._elements, self._piece):
            lanes = operator.products.new_lanes()
            for first, last in chunks(end - start, self._chunk):
                if self._stop.is_set():
                    return
                self._fill_rooms(last - first)
                place = start + first, start + last
                if not calculator.gram(*place, first, lanes, adds_base=operator.wants_base):
                    raise self._not_finite()
            operator.products.add_lanes(lanes)

    def _combine(self, factors: Sequence[float], excess: float) -> Iterator[tuple[memoryview, bool]]:
        """Add the deltas to the base, each times its factor, and some of the base once more."""
        calculator, recipe = self._calculator, self._what.recipe
        terms = [replace(term, coefficient=factor) for term, factor in zip(recipe.terms, factors, strict=True)]
        terms += [replace(_BASE, coefficient=excess)] if excess else []
        calculator.begin(replace(recipe, terms=tuple(terms)))
        self.inputs = open_inputs(self._what, self._reader, calculator)
        for start, end in filled_chunks(calculator, self.inputs, self._elements, self._whole_chunk, self._stop):
            yield calculator.linear(start, end)

    def _read(self) -> Iterator[tuple[int, list[np.ndarray], np.ndarray | None]]:
        """Read everything once: the place of each piece, its deltas and, if it is wanted, the base."""
        self.inputs = open_inputs(self._what, self._reader, self._calculator)
        for start, end in chunks(self._elements, self._piece):
            for first, last in chunks(end - start, self._chunk):
                if self._stop.is_set():
                    return
                self._fill(start, first, last)
            rows = [row[: end - start] for row, _ in self._rows]
            base = rows.pop() if self._operator.wants_base else None
            yield start, rows, base

    def _fill(self, start: int, first: int, last: int) -> None:
        """Read a part of a piece, keep the bytes of the base, and take the differences."""
        calculator, count = self._calculator, last - first
        self._fill_rooms(count)
        self._stored[first * self._size : last * self._size] = np.frombuffer(calculator.room(0, count), np.uint8)
        for row, term in self._rows:
            if not calculator.delta(term, start + first, start + last, row[first:last]):
                raise self._not_finite()

    def _fill_rooms(self, count: int) -> None:
        for index, tensor in enumerate(self.inputs):
            tensor.read_into(self._calculator.room(index, count))

    def _not_finite(self) -> MismatchError:
        return MismatchError(
            f"{self._name}: a delta or the base has values that are not finite",
            "An input has infinities or NaN: check the inputs with taskarith inspect.",
        )


def _copy(values: np.ndarray, out: memoryview) -> None:
    """Copy bytes while other threads run, which they do not while memory is assigned to a slice of a memoryview."""
    np.frombuffer(out, values.dtype)[:] = values


def _setting(plan: EditPlan, tensor: TensorPlan, device: str) -> Setting:
    present, name = {term.operand for term in tensor.terms}, tensor.source.name
    others = [one for index, one in enumerate(plan.operands) if index not in present and not one.role]
    absent = [one.coefficient_of(one.delta_of(name) or name) * plan.edit.alpha for one in others]
    added = [term for term in tensor.terms if not plan.operands[term.operand].role]
    return Setting(
        tensor.source.shape,
        tuple(term.delta for term in added),
        tuple(term.coefficient for term in added),
        tuple(absent),
        plan.edit.alpha,
        plan.edit.method,
        device,
        len(tensor.terms) - len(added),
    )
