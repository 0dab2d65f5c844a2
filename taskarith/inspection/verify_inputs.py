"""Which inputs of an edit are not what they were, so that nothing is said against an output that cannot be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.edit.inputs import Calculation, calculation
from taskarith.edit.plan import EditPlan
from taskarith.errors import TaskarithError, name_some
from taskarith.vectors.vector import Packed

__all__ = ["blameless"]


def blameless(
    plan: EditPlan, own: Mapping[str, TensorEntry], bases: Mapping[str, str], wrong: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Leave out those tensors that the inputs do not give now, but may have given as they were when they were read.

    :param plan: The edit, with the inputs as they are.
    :param own: The model's own tensors where new rows were put below them.
    :param bases: The fingerprint that each tensor of the model had.
    :param wrong: Tensors that are not what the inputs give.
    :returns: The tensors that are left, and which inputs have changed.
    """
    reasons, plans = [], {tensor.source.name: tensor for tensor in plan.tensors}
    with TensorReader() as reader:
        entries = {name: own.get(name, plans[name].source) for name in wrong}
        changed = [name for name in wrong if reader.fingerprint(entries[name]) != bases[name]]
        if changed:
            reasons.append(f"the base has changed since, in {name_some(sorted(changed))}")
        left = [name for name in wrong if name not in changed]
        used = sorted({term.operand for name in left for term in plans[name].terms})
        recorded = [one.fingerprint for one in plan.edit.operands]
        others = [index for index in used if _fingerprint(plan, index, reader) != recorded[index]]
    names = [plan.operands[index].vector.name for index in others]
    reasons += [f"{name} has changed since: what it moves is not calculated again" for name in names]
    left = [name for name in left if not any(term.operand in others for term in plans[name].terms)]
    return tuple(left), tuple(reasons)


def _fingerprint(plan: EditPlan, operand: int, reader: TensorReader) -> str:
    """Return the fingerprint of all that an edit reads of an operand; empty where it cannot be read."""
    found = {}
    try:
        for tensor in plan.tensors:
            what = calculation(plan, tensor) if tensor.terms else None
            for number, term in enumerate(tensor.terms):
                if what is not None and term.operand == operand:
                    found[term.delta] = _term_fingerprint(what, number, reader)
    except TaskarithError:
        return ""
    return combine_fingerprints(found)


def _term_fingerprint(what: Calculation, number: int, reader: TensorReader) -> str:
    index = what.fingerprints[number]
    if isinstance(index, str):
        return index
    entry = what.inputs[index]
    if not isinstance(entry, Packed):
        return reader.fingerprint(entry)
    stream, base, size = entry.open(reader), what.inputs[0], ITEM_SIZES[entry.dtype]
    origin = what.inputs[what.against[index]] if index in what.against else None
    elements = base.elements if isinstance(base, TensorEntry) else 0
    for start, stop in chunks(elements):
        against = None if not isinstance(origin, TensorEntry) else reader.read(origin, start * size, stop * size)
        stream.read_into(memoryview(bytearray((stop - start) * size)), None if against is None else memoryview(against))
    return stream.fingerprint()
