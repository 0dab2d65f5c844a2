"""That an edit can be repeated: the record of its inputs, and that they are still what they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.edit.operands import Operand
from taskarith.edit.plan import EditPlan
from taskarith.edit.rows import shared_rows
from taskarith.edit.run import RunResult
from taskarith.errors import MismatchError, name_some
from taskarith.spec import OperandRef, Scales, exists, parse_model, plain_scales
from taskarith.vectors.vector import BaseRecord, Vector

__all__ = ["check_inputs", "foreign_tensors", "record_edit"]


def record_edit(
    plan: EditPlan, model: ResolvedModel, references: Sequence[OperandRef], scale: Scales, result: RunResult
) -> dict[str, Any]:
    """Return what ``taskarith.json`` says of an edit: the inputs with their fingerprints, and all that was decided."""
    tensors = {
        tensor.source.name: {
            "action": tensor.action,
            "dtype": tensor.dtype,
            "base": result.base[tensor.source.name],
            "fingerprint": result.output[tensor.source.name],
            **({"rows": rows} if (rows := shared_rows(plan, tensor)) is not None else {}),
            **({"error": result.errors[tensor.source.name]} if tensor.source.name in result.errors else {}),
        }
        for tensor in plan.tensors
    }
    base = BaseRecord(model.recorded_name, model.revision, combine_fingerprints(result.base))
    return {
        "kind": "edit",
        "base": base.to_json(),
        "alpha": plan.alpha,
        "method": plan.method.record(),
        **({"scale": plain_scales(scale)} if scale else {}),
        "dtype": plan.dtype,
        "operands": [
            {
                "name": _recorded_name(reference, operand.vector),
                "kind": operand.vector.kind,
                "coefficient": operand.coefficient,
                **({"scale": plain_scales(reference.scale)} if reference.scale else {}),
                **({"against_model": True} if reference.against_model else {}),
                **({"role": reference.role} if reference.role else {}),
                "base": record.to_json() if (record := _base(operand, base)) else None,
                "fingerprint": combine_fingerprints(prints),
            }
            for operand, reference, prints in zip(plan.operands, references, result.operands, strict=True)
        ],
        "fingerprint": combine_fingerprints(result.output),
        "tensors": tensors,
    }


def check_inputs(plan: EditPlan, references: Sequence[OperandRef], model: str, result: RunResult) -> None:
    """Refuse to publish the repetition of an edit whose inputs are not what they were.

    :param plan: What was done.
    :param references: The operands, those with a fingerprint being checked.
    :param model: Fingerprint that the model must have; empty if that does not matter.
    :param result: What was read.
    :raises MismatchError: An input changed.
    """
    found = [(str(plan.base.path), model, combine_fingerprints(result.base))]
    found += [
        (reference.name, reference.fingerprint, combine_fingerprints(prints))
        for reference, prints in zip(references, result.operands, strict=True)
    ]
    changed = [name for name, expected, fingerprint in found if expected and expected != fingerprint]
    if changed:
        raise MismatchError(
            f"{name_some(changed)} changed since the edit that is to be repeated",
            "Restore what was there, or edit what is there now with a command or a recipe without fingerprints.",
        )


def foreign_tensors(plan: EditPlan, model: str) -> tuple[str, ...]:
    """Return the tensors whose deltas were taken against the edited model by an operand that records another base.

    :param model: Fingerprint of the model as it was edited.
    :raises MismatchError: The recorded base of an operand lay elsewhere, and is not found.
    """
    found = {
        index: one.own.recorded
        for index, one in enumerate(plan.operands)
        if one.own is not None and one.own.is_unread and one.own.recorded is not None
    }
    others = {index: recorded for index, recorded in found.items() if recorded.base.fingerprint != model}
    for recorded in others.values():
        recorded.locate(is_local=True)
    return tuple(tensor.source.name for tensor in plan.tensors if any(term.operand in others for term in tensor.terms))


def _recorded_name(reference: OperandRef, vector: Vector) -> str:
    """Return an absolute path, or a hub id with the commit, which is the name of the folder that it lies in."""
    if exists(reference.name):
        return str(Path(reference.name).resolve())
    return f"{parse_model(reference.name).name}@{Path(vector.name).name}"


def _base(operand: Operand, model: BaseRecord) -> BaseRecord | None:
    """Return the base that an operand's deltas were taken against, or else that it was made from."""
    return model if operand.own is not None and operand.own.is_model else operand.base
