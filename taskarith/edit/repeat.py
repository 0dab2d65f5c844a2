"""That an edit can be repeated: how its inputs are named in the record, and that they are still what they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.edit.plan import EditPlan
from taskarith.edit.run import RunResult
from taskarith.errors import MismatchError, name_some
from taskarith.spec import OperandRef, parse_model
from taskarith.vectors.form import Vector

__all__ = ["check_inputs", "recorded_name"]


def recorded_name(reference: OperandRef, vector: Vector) -> str:
    """Return an absolute path, or a hub id with the commit, which is the name of the folder that it lies in."""
    if Path(reference.name).exists():
        return str(Path(reference.name).resolve())
    return f"{parse_model(reference.name).name}@{Path(vector.name).name}"


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
