"""Detection of inputs that changed since an edit, so that its output is not blamed for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.edit.inputs import Calculation, calculation
from taskarith.edit.plan import EditPlan
from taskarith.errors import TaskarithError, name_some
from taskarith.vectors.vector import Packed

__all__ = ["exclude_changed_inputs"]


def exclude_changed_inputs(
    plan: EditPlan, own: Mapping[str, TensorEntry], bases: Mapping[str, str], wrong: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Exclude wrong tensors whose inputs have changed since the edit.

    :param plan: The edit, with the inputs as they are now.
    :param own: The model's own tensors if rows were appended to them.
    :param bases: Recorded fingerprints of the model's tensors.
    :param wrong: Tensors that differ from what the inputs give.
    :returns: The remaining tensors, and remarks on the changed inputs.
    """
    reasons, plans = [], {tensor.source.name: tensor for tensor in plan.tensors}
    with TensorReader() as reader:
        entries = {name: own.get(name, plans[name].source) for name in wrong}
        changed = [name for name in wrong if reader.fingerprint(entries[name]) != bases[name]]
        if changed:
            reasons.append(f"the base has changed since, in {name_some(sorted(changed))}")
        left = [name for name in wrong if name not in changed]
        used = sorted({term.operand for name in left for term in plans[name].terms})
        recorded = [operand.fingerprint for operand in plan.edit.operands]
        others = [index for index in used if _fingerprint(plan, index, reader) != recorded[index]]
    names = [plan.operands[index].vector.name for index in others]
    reasons += [f"{name} has changed since, so the tensors it changes were not recomputed" for name in names]
    left = [name for name in left if not any(term.operand in others for term in plans[name].terms)]
    return tuple(left), tuple(reasons)


def _fingerprint(plan: EditPlan, operand: int, reader: TensorReader) -> str:
    """Return the fingerprint of everything an edit reads of an operand; empty if it cannot be read."""
    fingerprints = {}
    try:
        for tensor in plan.tensors:
            work = calculation(plan, tensor) if tensor.terms else None
            for number, term in enumerate(tensor.terms):
                if work is not None and term.operand == operand:
                    fingerprints[term.delta] = _term_fingerprint(work, number, reader)
    except TaskarithError:
        return ""
    return combine_fingerprints(fingerprints)


def _term_fingerprint(work: Calculation, number: int, reader: TensorReader) -> str:
    index = work.fingerprints[number]
    if isinstance(index, str):
        return index
    entry = work.inputs[index]
    if not isinstance(entry, Packed):
        return reader.fingerprint(entry)
    stream, base, size = entry.open(reader), work.inputs[0], ITEM_SIZES[entry.dtype]
    origin = work.inputs[work.against[index]] if index in work.against else None
    elements = base.elements if isinstance(base, TensorEntry) else 0
    for start, stop in chunks(elements):
        against = None if not isinstance(origin, TensorEntry) else reader.read(origin, start * size, stop * size)
        stream.read_into(memoryview(bytearray((stop - start) * size)), None if against is None else memoryview(against))
    return stream.fingerprint()
