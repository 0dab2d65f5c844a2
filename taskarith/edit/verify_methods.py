"""Verify edits by other methods than addition: some tensors whole, because each element may depend on all others."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, work_through
from taskarith.arithmetic.recipe import Calculator
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader, fingerprint_bytes
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.edit.stream import EditedTensor
from taskarith.progress import Listener

__all__ = ["merge_again"]

_ELEMENTS = 1 << 22
"""Elements that are merged again, if the smallest tensor has no more."""


def merge_again(
    plan: EditPlan, written: Mapping[str, TensorEntry], names: Sequence[str], seed: int, listener: Listener
) -> tuple[int, tuple[str, ...]]:
    """Merge some tensors again and compare all of their bits; differences, sums and rounding are done by torch.

    :param plan: The edit.
    :param written: The tensors of the output.
    :param names: Those that are sound and were edited.
    :param seed: Which of them.
    :param listener: Told about progress.
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
            work = EditedTensor(plan, tensor, reader, calculator)
            data = b"".join(bytes(piece) for piece, _ in work.pieces(CHUNK_ELEMENTS, stop))
            found = b"".join(bytes(piece) for piece in reader.pieces(written[tensor.source.name]))
            if not stop.is_set() and fingerprint_bytes(data) != fingerprint_bytes(found):
                wrong.append(tensor.source.name)
            return tensor.source.elements

        chosen.sort(key=lambda tensor: -tensor.source.elements)
        total = sum(tensor.source.elements for tensor in chosen)
        work_through(chosen, do, listener, "merging again", total, device="torch", uses_torch=True)
    return total, tuple(sorted(wrong))
