"""That an edit can be repeated: the record of its inputs, and that they are still what they were."""

from __future__ import annotations

from typing import Any

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.edit.edit import Edit, ReadVector
from taskarith.edit.operands import Operand
from taskarith.edit.plan import EditPlan
from taskarith.edit.rows import shared_rows
from taskarith.edit.run import RunResult
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.locate import recorded_name
from taskarith.vectors.vector import BaseRecord

__all__ = ["check_inputs", "foreign_tensors", "record_edit"]


def record_edit(edit: Edit, plan: EditPlan, model: ResolvedModel, result: RunResult) -> dict[str, Any]:
    """Return what ``taskarith.json`` says of an edit: the inputs with their fingerprints, and all that was decided.

    :param edit: As it was carried out.
    :param plan: What was done to each tensor.
    :param model: The model.
    :param result: What was read and written.
    """
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
    base = BaseRecord.of(model, result.base)
    vectors = [
        ReadVector(
            recorded_name(reference, operand.vector.name),
            operand.vector.kind,
            _base(operand, base),
            combine_fingerprints(fingerprints),
        )
        for operand, reference, fingerprints in zip(plan.operands, edit.operands, result.operands, strict=True)
    ]
    return edit.to_record(base, vectors, {"fingerprint": combine_fingerprints(result.output), "tensors": tensors})


def check_inputs(plan: EditPlan, result: RunResult) -> None:
    """Refuse to publish the repetition of an edit whose inputs are not what they were.

    :param plan: What was done; its model and those operands are checked that have a fingerprint.
    :param result: What was read.
    :raises MismatchError: An input changed.
    """
    found = [(str(plan.base.path), plan.edit.model_fingerprint, combine_fingerprints(result.base))]
    found += [
        (reference.name, reference.fingerprint, combine_fingerprints(fingerprints))
        for reference, fingerprints in zip(plan.edit.operands, result.operands, strict=True)
    ]
    changed = [name for name, expected, fingerprint in found if expected and expected != fingerprint]
    if changed:
        raise MismatchError(
            f"{name_some(changed)} changed since the edit that is to be repeated",
            "Restore what was there, or edit what is there now with a command or a recipe without fingerprints.",
        )


def foreign_tensors(plan: EditPlan) -> tuple[str, ...]:
    """Return the tensors whose deltas were taken against the edited model by an operand that records another base.

    :param plan: Of an edit that has the fingerprint of its model.
    :raises MismatchError: The recorded base of an operand lay elsewhere, and is not found.
    """
    found = {
        index: one.own.recorded
        for index, one in enumerate(plan.operands)
        if one.own is not None and one.own.is_unread and one.own.recorded is not None
    }
    edited = plan.edit.model_fingerprint
    others = {index: recorded for index, recorded in found.items() if recorded.base.fingerprint != edited}
    for recorded in others.values():
        recorded.locate(is_local=True)
    return tuple(tensor.source.name for tensor in plan.tensors if any(term.operand in others for term in tensor.terms))


def _base(operand: Operand, model: BaseRecord) -> BaseRecord | None:
    """Return the base that an operand's deltas were taken against, or else that it was made from."""
    return model if operand.own is not None and operand.own.is_model else operand.base
