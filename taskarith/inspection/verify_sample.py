"""Samples of elements, recomputed with code independent of the one that wrote them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from taskarith.arithmetic.calculator import LowRank, Term
from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.ulp_codec import RUN
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.inputs import Calculation, calculation
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.progress import Listener
from taskarith.vectors.vector import Packed

__all__ = ["SAMPLE", "compare_samples", "damaged_tensors", "elements", "recompute"]

SAMPLE = RUN
"""Elements to recompute in each tensor, in a run that starts at a multiple of this number chosen by the seed."""


def damaged_tensors(
    entries: Mapping[str, TensorEntry], recorded: Mapping[str, str], listener: Listener
) -> tuple[str, ...]:
    """Return the tensors whose fingerprints do not match the record, or that are missing or new."""
    damaged = []
    with TensorReader() as reader:
        for index, name in enumerate(sorted(entries.keys() | recorded.keys())):
            listener.progress("verifying", index, len(recorded))
            if name not in entries or name not in recorded or reader.fingerprint(entries[name]) != recorded[name]:
                damaged.append(name)
    return tuple(damaged)


def compare_samples(
    entries: list[TensorEntry], seed: int, again: Callable[[TensorEntry, int, int], bytes]
) -> tuple[int, tuple[str, ...]]:
    """Compare a run of elements of each tensor, bit by bit, with the result of ``again``."""
    generator = np.random.default_rng(seed)
    count, wrong = 0, []
    with TensorReader() as reader:
        for entry in entries:
            start = SAMPLE * int(generator.integers(0, max(1, -(-entry.elements // SAMPLE))))
            stop = min(entry.elements, start + SAMPLE)
            size = ITEM_SIZES[entry.dtype]
            if bytes(reader.read(entry, start * size, stop * size)) != again(entry, start, stop):
                wrong.append(entry.name)
            count += stop - start
    return count, tuple(wrong)


def recompute(plan: EditPlan, tensor: TensorPlan, start: int, stop: int) -> bytes:
    """Evaluate base + sum of terms with numpy, adding terms in order of value, rounded once."""
    work = calculation(plan, tensor)
    with TensorReader() as reader:
        if tensor.action == "copied":
            size = ITEM_SIZES[tensor.dtype]
            return bytes(reader.read(tensor.source, start * size, stop * size))
        stored = _inputs(work, start, stop, reader)
        if work.result is not None:
            return bytes(stored[work.result])
        inputs = [decode(data, entry.dtype) for data, entry in zip(stored, work.inputs, strict=True)]
        if not work.recipe.terms:
            return encode(inputs[0], tensor.dtype)
    terms = np.sort([_term(term, inputs, start, stop) for term in work.recipe.terms], axis=0)
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return encode(np.where(total == 0, inputs[0], inputs[0] + total), tensor.dtype)


def _term(term: Term, inputs: list[np.ndarray], start: int, stop: int) -> np.ndarray:
    if isinstance(term.plus, LowRank):
        row, column = np.divmod(np.arange(start, stop), term.plus.right.shape[1])
        total = np.zeros(stop - start)
        rank = term.plus.left.shape[1]
        above = row // (len(term.plus.left) // term.plus.blocks) * rank
        for index in range(rank):
            total += term.plus.left[row, index] * term.plus.right[above + index, column]
        return term.coefficient * (total * term.plus.scale)
    delta = inputs[term.plus] if term.minus is None else inputs[term.plus] - inputs[term.minus]
    return term.coefficient * delta


def _inputs(work: Calculation, start: int, stop: int, reader: TensorReader) -> list[bytearray]:
    stored: list[bytearray] = []
    for index, entry in enumerate(work.inputs):
        size = ITEM_SIZES[entry.dtype]
        if isinstance(entry, Packed):
            data, stream, origin = bytearray((stop - start) * size), entry.open(reader), work.against.get(index)
            stream.skip(start)
            stream.read_into(memoryview(data), None if origin is None else memoryview(stored[origin]))
        else:
            rows_end = min(stop * size, entry.nbytes)  # a smaller vocabulary is padded with zeros
            data = reader.read(entry, min(start * size, rows_end), rows_end).ljust((stop - start) * size, b"\0")
        stored.append(data)
    return stored


def elements(entry: TensorEntry, start: int, stop: int, reader: TensorReader) -> np.ndarray:
    """Return elements of a stored tensor in float64."""
    size = ITEM_SIZES[entry.dtype]
    return decode(reader.read(entry, start * size, stop * size), entry.dtype)
