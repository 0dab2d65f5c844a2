"""What a tensor of a plan is calculated from: the inputs to read, and the recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass

from taskarith.arithmetic.recipe import Recipe, Term
from taskarith.checkpoints.header import TensorEntry
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.vectors.form import Difference, Factored, Stored

__all__ = ["Calculation", "calculation"]


@dataclass(frozen=True)
class Calculation:
    """How an edited tensor is calculated.

    :param inputs: What is read, the base first; no tensor is read twice.
    :param recipe: What is done with it.
    :param prints: For each term the input whose fingerprint is that of its delta, or the fingerprint of its factors.
    """

    inputs: tuple[TensorEntry, ...]
    recipe: Recipe
    prints: tuple[int | str, ...]


def calculation(plan: EditPlan, tensor: TensorPlan, dtype: str | None = None) -> Calculation:
    """Look up what a tensor of a plan is calculated from; ``dtype`` replaces that of the output."""
    inputs = [tensor.source]
    places = {_place(tensor.source): 0}

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
    recipe = Recipe(tuple(entry.dtype for entry in inputs), tuple(terms), dtype or tensor.dtype)
    return Calculation(tuple(inputs), recipe, tuple(prints))


def _place(entry: TensorEntry) -> tuple[str, int, str]:
    return os.path.realpath(entry.path), entry.offset, entry.name
