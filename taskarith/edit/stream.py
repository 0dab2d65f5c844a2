"""One edited tensor, calculated from beginning to end in pieces, whatever the method."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import filled_chunks
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.inputs import Calculation, OpenInput, calculated, calculation, open_inputs, term_fingerprints
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError
from taskarith.merging.methods import METHODS
from taskarith.merging.overflow import naming_overflow
from taskarith.vectors.file import check_delta

__all__ = ["EditedTensor", "check_terms"]


class EditedTensor:
    """Gives the bytes of an edited tensor, and afterwards the fingerprints of what was read.

    :param plan: The edit.
    :param tensor: One of its tensors.
    :param reader: Reads the inputs.
    :param calculator: Calculates; it begins this tensor.
    :param dtype: Replaces that of the output.
    """

    def __init__(
        self, plan: EditPlan, tensor: TensorPlan, reader: TensorReader, calculator: Calculator, dtype: str | None = None
    ) -> None:
        self._plan, self._tensor = plan, tensor
        self._reader, self._calculator = reader, calculator
        self._what = calculation(plan, tensor, dtype)
        self._inputs: list[OpenInput] = []

    def pieces(self, chunk: int, stop: threading.Event) -> Iterator[tuple[memoryview, bool]]:
        """Return bytes, valid until the next ones, and whether all of them are finite; end early on ``stop``.

        :param chunk: Elements at a time; it changes no bit.
        """
        method = self._plan.edit.method
        if self._tensor.terms and method.needs_factors:
            yield from self._linear(_merged_factors(self._plan, self._what, self._tensor.source.name), chunk, stop)
        elif self._tensor.terms and not method.is_linear:
            from taskarith.edit.merge import Merge

            work = Merge(self._plan, self._tensor, self._what, self._reader, self._calculator, chunk, stop)
            yield from work.pieces()
            self._inputs = work.inputs
        else:
            yield from self._linear(self._what, chunk, stop)

    def fingerprints(self) -> dict[str, object]:
        """Return the fingerprints of the base and of each term's delta, valid after the last piece.

        :raises MismatchError: An exact vector was decoded against another base than its own.
        :raises VectorError: A delta is not what was written when it was extracted.
        """
        operands = term_fingerprints(self._what, self._inputs)
        check_terms(self._plan, self._tensor, operands)
        return {"base": self._inputs[0].fingerprint(), "operands": operands}

    def _linear(self, what: Calculation, chunk: int, stop: threading.Event) -> Iterator[tuple[memoryview, bool]]:
        self._calculator.begin(what.recipe)
        self._inputs = open_inputs(what, self._reader, self._calculator)
        for start, end in filled_chunks(self._calculator, self._inputs, self._tensor.source.elements, chunk, stop):
            yield calculated(what, self._calculator, start, end)


def check_terms(plan: EditPlan, tensor: TensorPlan, operands: Sequence[str]) -> None:
    """Compare the fingerprints of all deltas of a tensor with those in the vectors' files.

    :raises VectorError: A delta is not what was written when it was extracted.
    """
    for term, found in zip(tensor.terms, operands, strict=True):
        check_delta(plan.operands[term.operand].vector, term.delta, tensor.source.shape, found)


def _merged_factors(plan: EditPlan, what: Calculation, name: str) -> Calculation:
    """Replace the terms, which are all factors, by the one that they merge to.

    :raises MismatchError: An adapter holds something else for this tensor, or the factors of many experts.
    """
    from taskarith.arithmetic.calculator import LowRank, Term

    factors = [term.plus for term in what.recipe.terms if isinstance(term.plus, LowRank)]
    weights, method = [term.coefficient for term in what.recipe.terms], plan.edit.method
    if len(factors) < len(weights) or any(one.blocks != 1 for one in factors):
        raise MismatchError(
            f"{method.name} merges pairs of factors, and an adapter holds something else for {name}",
            "Use another method, such as ties: it takes whatever adapters hold.",
        )
    if len(factors) == 1 and method.density == 1:
        return what
    with naming_overflow(name):
        merged = METHODS[method.name].load()(factors, weights, plan.edit.alpha, method.density or 1.0)
    return replace(what, recipe=replace(what.recipe, terms=(Term(1.0, merged),)))
