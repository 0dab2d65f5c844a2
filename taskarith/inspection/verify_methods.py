"""Verify edits by nonlinear methods: recompute whole tensors, because each element may depend on all others."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, work_through
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader, fingerprint_bytes
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.edit.stream import EditedTensor
from taskarith.progress import Listener

__all__ = ["TOLERANCE", "merge_again"]

TOLERANCE = 2.0**-20
"""Share of a tensor's largest change by which a result may differ from its recomputed value before rounding, since
singular values depend slightly on the processor and its library."""

_ELEMENTS = 1 << 22
"""Maximum elements to recompute, unless the smallest tensor has more."""


def merge_again(
    plan: EditPlan, written: Mapping[str, TensorEntry], names: Sequence[str], seed: int, listener: Listener
) -> tuple[int, tuple[str, ...]]:
    """Merge some tensors again with torch, and compare all of their bits.

    For methods with singular values, each element must be the rounding of a number within ``TOLERANCE``.

    :param plan: The edit.
    :param written: Tensors of the output.
    :param names: Undamaged edited tensors.
    :param seed: Seed of the choice.
    :param listener: Receives progress updates.
    :returns: Number of elements, and names of the tensors that differ.
    """
    order = np.random.default_rng(seed).permutation(len(names))
    plans = {tensor.source.name: tensor for tensor in plan.tensors}
    chosen: list[TensorPlan] = []
    budget = max(_ELEMENTS, min((plans[name].source.elements for name in names), default=0))
    for index in order:
        tensor = plans[names[index]]
        if tensor.source.elements <= budget:
            chosen.append(tensor)
            budget -= tensor.source.elements
    wrong: list[str] = []
    with TensorReader() as reader:

        def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
            is_near = plan.edit.method.needs_torch
            work = EditedTensor(plan, tensor, reader, calculator, "F64" if is_near else None)
            data = b"".join(bytes(piece) for piece, _ in work.pieces(CHUNK_ELEMENTS, stop))
            stored = b"".join(bytes(piece) for piece in reader.pieces(written[tensor.source.name]))
            same = fingerprint_bytes(data) == fingerprint_bytes(stored)
            if is_near and not same and not stop.is_set():
                base = decode(b"".join(bytes(piece) for piece in reader.pieces(tensor.source)), tensor.source.dtype)
                same = _are_near(decode(stored, tensor.dtype), np.frombuffer(data), base, tensor.dtype)
            if not stop.is_set() and not same:
                wrong.append(tensor.source.name)
            return tensor.source.elements

        chosen.sort(key=lambda tensor: -tensor.source.elements)
        total = sum(tensor.source.elements for tensor in chosen)
        work_through(chosen, do, listener, "merging again", total, Workers("torch"))
    return total, tuple(sorted(wrong))


def _are_near(stored: np.ndarray, again: np.ndarray, base: np.ndarray, dtype: str) -> bool:
    """Tell whether all elements are roundings of numbers within the tolerance of the recomputed float64 values."""
    margin = TOLERANCE * float(np.abs(again - base).max(initial=0.0))
    lowest, highest = (decode(encode(again + shift, dtype), dtype) for shift in (-margin, margin))
    return bool(((lowest <= stored) & (stored <= highest)).all())
