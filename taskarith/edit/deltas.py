"""The deltas of a sum of task vectors, tensor by tensor in float64, and what is summed over all of them."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Sequence
from functools import reduce

import numpy as np

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, filled_chunks, new_calculator, work_through
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.inputs import NOTHING, gather, kernels_for, open_inputs, term_fingerprints
from taskarith.errors import MismatchError
from taskarith.progress import SILENT
from taskarith.vectors.file import check_delta
from taskarith.vectors.vector import Vector

__all__ = ["Terms", "inner_products", "read_delta", "shapes_of"]

Terms = Sequence[tuple[float, Vector]]
"""A sum: opened vectors with their coefficients."""


def shapes_of(terms: Terms) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a term moves."""
    return reduce(operator.or_, (dict(vector.shapes) for _, vector in reversed(terms)))


def read_delta(terms: Terms, tensor: str) -> np.ndarray:
    """Return the delta of one tensor that a term moves: float64 of its shape, evaluated in float64, rounded once.

    :raises MismatchError: Terms disagree about its shape.
    """
    with TensorReader() as reader:
        calculator = new_calculator(_workers(terms))
        return _delta(terms, tensor, reader, calculator, threading.Event()).reshape(shapes_of(terms)[tensor])


def inner_products(*sums: Terms) -> list[float]:
    """Return the square of each sum, and of two also their inner product, over all tensors.

    A tensor that a sum does not move counts as zero in it. Products and sums are float64; a worker holds one whole
    tensor of each sum.

    :raises MismatchError: A tensor has different shapes.
    """
    pairs = [(0, 0), (1, 1), (0, 1)] if len(sums) == 2 else [(0, 0)]
    shapes = [shapes_of(terms) for terms in sums]
    names = list(reduce(operator.or_, shapes))
    found: dict[str, list[float]] = {}
    for name in names:
        _check_shapes(name, [of[name] for of in shapes if name in of])
    with TensorReader() as reader:

        def do(name: str, calculator: Calculator, stop: threading.Event) -> int:
            zero = np.zeros(math.prod(next(of[name] for of in shapes if name in of)))
            deltas = [
                _delta(terms, name, reader, calculator, stop) if name in of else zero
                for terms, of in zip(sums, shapes, strict=True)
            ]
            found[name] = [float(np.dot(deltas[i], deltas[j])) for i, j in pairs]
            return 1

        work_through(names, do, SILENT, "calculating", len(names), _workers(*sums))
    return [math.fsum(found[name][index] for name in names) for index in range(len(pairs))]


def _workers(*sums: Terms) -> Workers:
    return Workers(kernels=kernels_for("linear", (vector for terms in sums for _, vector in terms)))


def _check_shapes(tensor: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if len({*shapes}) > 1:
        raise MismatchError(
            f"{tensor} has different shapes: {' and '.join(str(list(shape)) for shape in dict.fromkeys(shapes))}",
            "Add and compare vectors of one base.",
        )


def _delta(
    terms: Terms, tensor: str, reader: TensorReader, calculator: Calculator, stop: threading.Event
) -> np.ndarray:
    """Calculate the delta of one tensor: float64, flat."""
    moving = [(coefficient, vector) for coefficient, vector in terms if tensor in vector.shapes]
    _check_shapes(tensor, [vector.shapes[tensor] for _, vector in moving])
    shape = moving[0][1].shapes[tensor]
    what = gather(NOTHING, shape, [(coefficient, vector.delta(tensor)) for coefficient, vector in moving], "F64")
    calculator.begin(what.recipe)
    inputs, values = open_inputs(what, reader, calculator), np.empty(math.prod(shape))
    for start, end in filled_chunks(calculator, inputs, len(values), CHUNK_ELEMENTS, stop):
        data, _ = calculator.linear(start, end)
        values[start:end] = np.frombuffer(data, np.float64)
    if not stop.is_set():
        for (_, vector), found in zip(moving, term_fingerprints(what, inputs), strict=True):
            check_delta(vector, tensor, shape, found)
    return values
