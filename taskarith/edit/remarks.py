"""What the user should know about an edit: what was left out, what it holds in memory, strangers, rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.edit.operands import Operand
from taskarith.edit.plan import EditPlan
from taskarith.edit.run import RunResult
from taskarith.vectors.bases import made_from
from taskarith.vectors.one_sided import ignored_remark

__all__ = ["left_out", "own_bases", "rounding", "strangers", "understood", "whole"]


def left_out(plan: EditPlan) -> list[str]:
    """Say which weights of the folder are not in the output."""
    if not plan.base.left_out:
        return []
    names = ", ".join(str(path) for path in plan.base.left_out[:5])
    return [f"not carried along, other weights of the same folder that were not edited: {names}"]


def understood(plan: EditPlan) -> list[str]:
    """Say how vectors were understood where that is not plain, and which buffers were left out."""
    remarks = []
    for one in plan.operands:
        where = f"one of {one.vector.name}, its base and the model"
        remarks += [*one.vector.remarks, *ignored_remark(one.ignored, where)]
    return list(dict.fromkeys(remarks))


def whole(plan: EditPlan) -> list[str]:
    """Say which tensors a method holds in memory as a whole."""
    found = sorted(plan.whole_tensors, key=lambda tensor: -tensor.source.elements)
    if not found:
        return []
    largest = ", ".join(f"{one.source.name} ({8 * one.source.elements / 1e6:,.0f} MB)" for one in found[:5])
    how = f"{plan.edit.method.name} holds {len(found)} whole matrices in memory, one a core at a time"
    return [f"{how}, each about six times for every operand, in float64; the largest are {largest}"]


def strangers(operands: Sequence[Operand], tensors: Mapping[str, str], model: str) -> list[str]:
    """Say which vectors were made from another model than the one they are applied to, and which base was used.

    :param operands: The vectors.
    :param tensors: The fingerprint of each tensor of the model.
    :param model: Its name.
    """
    fingerprint, remarks = combine_fingerprints(dict(tensors)), []
    for operand in operands:
        record = operand.base
        if record is not None and record.fingerprint not in {"", fingerprint}:
            remarks.append(made_from(operand.vector.name, record, model, tensors))
        if operand.own is not None and (named := operand.own.remark(tensors)):
            remarks.append(named)
    return remarks


def own_bases(operands: Sequence[Operand]) -> list[str]:
    """Say which base was used for each vector that is a difference to another model than the edited one."""
    others = ((one.vector.name, one.own.record) for one in operands if one.own is not None and not one.own.is_model)
    return [f"{name} is taken as the difference to {base}" for name, base in others]


def rounding(result: RunResult) -> list[str]:
    """Say what quantising again has cost."""
    if not result.errors:
        return []
    worst = max(result.errors, key=lambda name: result.errors[name])
    error = f"a relative error of up to {result.errors[worst]:.2g} ({worst}) against the exact result"
    return [f"{len(result.errors)} float8 weights were quantised again, with {error}"]
