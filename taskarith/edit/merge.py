"""Stream the deltas of one tensor through an operator that is not linear, and add the result to the base."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from taskarith.arithmetic.operators.operator import Operator, Setting
from taskarith.arithmetic.parallel import chunks
from taskarith.arithmetic.recipe import Calculator, Recipe, Term
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.calculation import Calculation, OpenInput, open_inputs
from taskarith.edit.method import Method
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError

__all__ = ["PIECE_ELEMENTS", "merged_pieces", "new_operator"]

PIECE_ELEMENTS = 1 << 16
"""Elements that an operator gets at a time, if they do not belong together with more."""

_BASE = Term(1.0, 0)


def merged_pieces(
    plan: EditPlan,
    tensor: TensorPlan,
    what: Calculation,
    reader: TensorReader,
    calculator: Calculator,
    chunk: int,
    stop: threading.Event,
) -> Iterator[tuple[list[OpenInput], memoryview, bool]]:
    """Calculate ``round(base + operator(deltas))``: the inputs that are being read, bytes, and whether they are finite.

    Deltas are ``finetuned - base`` in float64; the merged delta stays float64 until it is added and rounded once. The
    inputs are read once for every reading that the operator asks for, and once for the result.

    :raises MismatchError: A delta has values that are not finite.
    """
    recipe = what.recipe
    merged = len(recipe.dtypes)
    calculator.begin(Recipe((*recipe.dtypes, "F64"), (Term(1.0, merged),), recipe.output))
    operator = new_operator(plan.method, _setting(plan, tensor))
    source = _Source(tensor, what, operator, reader, calculator, chunk, stop)
    while not operator.is_ready() and not stop.is_set():
        for _ in source.pieces():
            operator.scan(source.deltas, source.base)
        operator.end_scan()
    for start in source.pieces(keep_base=True):
        with np.errstate(all="ignore"):  # what overflows is found when it is rounded
            values = operator.merge(start, source.deltas, source.base)
        for first, last in chunks(len(values), source.chunk):
            calculator.room(0, last - first)[:] = source.stored(first, last)
            calculator.room(merged, last - first)[:] = values[first:last].data.cast("B")
            yield source.inputs, *calculator.linear(start + first, start + last)


class _Source:
    """Reads the inputs of a tensor and cuts their deltas into pieces at fixed places, whatever the chunks."""

    def __init__(
        self,
        tensor: TensorPlan,
        what: Calculation,
        operator: Operator,
        reader: TensorReader,
        calculator: Calculator,
        chunk: int,
        stop: threading.Event,
    ) -> None:
        self._what, self._reader, self._calculator, self._stop = what, reader, calculator, stop
        self._name, self._elements = tensor.source.name, tensor.source.elements
        self._piece = operator.span * max(1, PIECE_ELEMENTS // max(1, operator.span))
        room = min(self._piece, self._elements)
        self._rows = [np.empty(room) for _ in what.recipe.terms]
        self._base = np.empty(room) if operator.wants_base else None
        self._size = ITEM_SIZES[what.base.dtype]
        self._stored = bytearray()
        self.chunk = min(chunk, PIECE_ELEMENTS)
        self.inputs: list[OpenInput] = []
        self.deltas: list[np.ndarray] = []
        self.base: np.ndarray | None = None

    def pieces(self, keep_base: bool = False) -> Iterator[int]:
        """Read everything once: give the place of each piece, whose ``deltas`` and ``base`` are there meanwhile.

        :param keep_base: Let ``stored`` give the bytes of the base.
        """
        self.inputs = open_inputs(self._what, self._reader, self._calculator)
        if keep_base:
            self._stored = bytearray(min(self._piece, self._elements) * self._size)
        for start, end in chunks(self._elements, self._piece):
            for first, last in chunks(end - start, self.chunk):
                if self._stop.is_set():
                    return
                self._fill(start, first, last, keep_base)
            self.deltas = [row[: end - start] for row in self._rows]
            self.base = None if self._base is None else self._base[: end - start]
            yield start

    def stored(self, first: int, last: int) -> memoryview:
        """Return the bytes of the base, by places in the piece."""
        return memoryview(self._stored)[first * self._size : last * self._size]

    def _fill(self, start: int, first: int, last: int, keep_base: bool) -> None:
        calculator, count = self._calculator, last - first
        for index, tensor in enumerate(self.inputs):
            tensor.fill(calculator.room(index, count))
        if keep_base:
            self._stored[first * self._size : last * self._size] = calculator.room(0, count)
        rows = [*zip(self._rows, self._what.recipe.terms, strict=True)]
        if self._base is not None:
            rows.append((self._base, _BASE))
        for row, term in rows:
            data, is_finite = calculator.delta(term, start + first, start + last)
            if not is_finite:
                raise MismatchError(
                    f"{self._name}: a delta or the base has values that are not finite",
                    "An input has infinities or NaN: check the inputs with taskarith inspect.",
                )
            row[first:last] = np.frombuffer(data)


def _setting(plan: EditPlan, tensor: TensorPlan) -> Setting:
    terms = {term.operand: term for term in tensor.terms}
    absent = [one.coefficient * plan.alpha for index, one in enumerate(plan.operands) if index not in terms]
    return Setting(
        tensor.source.shape,
        tuple(term.delta for term in tensor.terms),
        tuple(term.coefficient for term in tensor.terms),
        tuple(absent),
        plan.alpha,
    )


def new_operator(method: Method, setting: Setting) -> Operator:
    """Return the operator of a method, fresh for one tensor."""
    if method.needs_whole_tensors:
        from taskarith.arithmetic.operators.spectral import Spectral, iso_c, tsv, wudi

        return Spectral(setting, {"iso_c": iso_c, "tsv": tsv, "wudi": wudi}[method.name])
    if method.name in {"slerp", "model_stock"}:
        from taskarith.arithmetic.operators.sphere import ModelStock, Slerp

        return Slerp(setting) if method.name == "slerp" else ModelStock(setting)
    return _sparse(method, setting)


def _sparse(method: Method, setting: Setting) -> Operator:
    from taskarith.arithmetic.operators.sparse import ByChance, ByMagnitude, ByRank, Merger, Pruner

    elements, density = setting.elements, method.density or 1.0
    columns = setting.shape[-1] if setting.shape else 1
    seed, rescale = method.seed or 0, bool(method.rescale)
    span = columns if method.name.startswith("della") else 1

    def pruner(name: str) -> Pruner:
        if method.name.startswith("dare"):
            return ByChance(seed, name, density, rescale)
        if method.name.startswith("della"):
            return ByRank(seed, name, density, rescale, method.epsilon or 0.0, columns)
        return ByMagnitude(elements, density, method.gamma)

    elects = method.name in {"ties", "dare_ties", "della", "breadcrumbs_ties"}
    return Merger(setting, [pruner(name) for name in setting.names], elects, method.normalize, span)
