"""What the user should know about an edit: what was left out, what it holds in memory, strangers, rounding."""

from __future__ import annotations

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.edit.plan import EditPlan
from taskarith.edit.run import RunResult
from taskarith.vectors.one_sided import ignored_remark

__all__ = ["left_out", "rounding", "strangers", "understood", "whole"]


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
    how = f"{plan.method.name} holds {len(found)} matrices as a whole, one for each core at a time"
    return [f"{how}, each about six times for every operand, in float64; the largest are {largest}"]


def strangers(plan: EditPlan, result: RunResult) -> list[str]:
    """Say which vectors were made from another model than the one they were applied to."""
    remarks = []
    for operand in plan.operands:
        record = operand.vector.base
        if record and record.fingerprint and record.fingerprint != combine_fingerprints(result.base):
            other = [name for name, print_ in result.base.items() if record.tensors.get(name, print_) != print_]
            count = f" ({len(other)} of {len(result.base)} tensors differ)" if other else ""
            remarks.append(f"{operand.vector.name} was made from {record}, not from {plan.base.path}{count}")
    return remarks


def rounding(result: RunResult) -> list[str]:
    """Say what quantising again has cost."""
    if not result.errors:
        return []
    worst = max(result.errors, key=lambda name: result.errors[name])
    error = f"a relative error of up to {result.errors[worst]:.2g} ({worst}) against the exact result"
    return [f"{len(result.errors)} float8 weights were quantised again, with {error}"]
