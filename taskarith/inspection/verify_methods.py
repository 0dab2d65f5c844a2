"""Verify edits by other methods than addition: some tensors whole, because each element may depend on all others."""

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
"""Singular values depend a little on the processor and its library: so much of the largest change of a tensor may a
result differ, before it is rounded, from what is calculated again."""

_ELEMENTS = 1 << 22
"""Elements that are merged again, if the smallest tensor has no more."""


def merge_again(
    plan: EditPlan, written: Mapping[str, TensorEntry], names: Sequence[str], seed: int, listener: Listener
) -> tuple[int, tuple[str, ...]]:
    """Merge some tensors again and compare all of their bits; differences, sums and rounding are done by torch.

    Of a method that takes singular values, each element must be the rounded value of a number within ``TOLERANCE``.

    :param plan: The edit.
    :param written: The tensors of the output.
    :param names: Those that are sound and were edited.
    :param seed: Which of them.
    :param listener: Receives progress updates.
    :returns: Number of elements, and names of the tensors that differ.
    """
    order = np.random.default_rng(seed).permutation(len(names))
    plans = {tensor.source.name: tensor for tensor in plan.tensors}
    chosen: list[TensorPlan] = []
    room = max(_ELEMENTS, min((plans[name].source.elements for name in names), default=0))
    for index in order:
        tensor = plans[names[index]]
        if tensor.source.elements <= room:
            chosen.append(tensor)
            room -= tensor.source.elements
    wrong: list[str] = []
    with TensorReader() as reader:

        def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
            is_near = plan.edit.method.needs_torch
            work = EditedTensor(plan, tensor, reader, calculator, "F64" if is_near else None)
            data = b"".join(bytes(piece) for piece, _ in work.pieces(CHUNK_ELEMENTS, stop))
            found = b"".join(bytes(piece) for piece in reader.pieces(written[tensor.source.name]))
            same = fingerprint_bytes(data) == fingerprint_bytes(found)
            if is_near and not same and not stop.is_set():
                base = decode(b"".join(bytes(piece) for piece in reader.pieces(tensor.source)), tensor.source.dtype)
                same = _are_near(decode(found, tensor.dtype), np.frombuffer(data), base, tensor.dtype)
            if not stop.is_set() and not same:
                wrong.append(tensor.source.name)
            return tensor.source.elements

        chosen.sort(key=lambda tensor: -tensor.source.elements)
        total = sum(tensor.source.elements for tensor in chosen)
        work_through(chosen, do, listener, "merging again", total, Workers("torch"))
    return total, tuple(sorted(wrong))


def _are_near(found: np.ndarray, again: np.ndarray, base: np.ndarray, dtype: str) -> bool:
    """Tell whether all elements are roundings of numbers that are near to those calculated again in float64."""
    reach = TOLERANCE * float(np.abs(again - base).max(initial=0.0))
    least, most = (decode(encode(again + shift, dtype), dtype) for shift in (-reach, reach))
    return bool(((least <= found) & (found <= most)).all())
