"""Verify an edit: its tensors are those that were written, and those that the inputs give."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.edit import Edit
from taskarith.edit.enlarging import enlarged
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import EditPlan, TensorPlan, plan_edit
from taskarith.edit.repeat import foreign_tensors
from taskarith.errors import TaskarithError, UsageError
from taskarith.inspection.verification import Verification
from taskarith.inspection.verify_inputs import exclude_changed_inputs
from taskarith.inspection.verify_methods import TOLERANCE, merge_again
from taskarith.inspection.verify_record import read_edit, read_fingerprints
from taskarith.inspection.verify_sample import compare_samples, damaged_tensors, recompute
from taskarith.progress import Listener

__all__ = ["verify_edit"]


def verify_edit(result: Verification, record: Mapping[str, Any], seed: int, listener: Listener) -> Verification:
    """Recompute the fingerprints of all tensors of an output, and a sample of their elements.

    :param result: The result so far, on its files.
    :param record: Record of the edit.
    :param seed: Seed of the samples.
    :param listener: Receives progress updates.
    :raises CheckpointError: The weights cannot be read.
    """
    checkpoint = open_checkpoint(result.path)
    recorded = read_fingerprints(result.path, record)
    damaged = damaged_tensors(checkpoint.tensors, recorded, listener)
    result = replace(result, tensors=len(recorded), damaged=damaged)
    whole = {name: entry for name, entry in checkpoint.tensors.items() if name not in damaged}
    try:
        edit, bases = read_edit(result.path, record), read_fingerprints(result.path, record, "base")
    except UsageError as error:
        return replace(result, unsampled=f"the recorded edit cannot be repeated: {error.message}")
    with ExitStack() as scratch:
        try:
            plan, own = _plan(edit, listener, scratch)
            foreign = foreign_tensors(plan)
        except TaskarithError as error:
            return replace(result, unsampled=f"the inputs cannot be opened: {error.message}")
        if foreign:
            return replace(result, wrong=foreign)
        return _recompute(result, bases, plan, own, whole, seed, listener)


def _recompute(
    result: Verification,
    bases: Mapping[str, str],
    plan: EditPlan,
    own: Mapping[str, TensorEntry],
    whole: Mapping[str, TensorEntry],
    seed: int,
    listener: Listener,
) -> Verification:
    """Compare the output with what the inputs give now, and find inputs that have changed since.

    :param bases: Recorded fingerprints of the model's tensors.
    :param own: The model's own tensors if rows were appended to them.
    :param whole: Tensors of the output that are unchanged.
    """
    plans = {tensor.source.name: tensor for tensor in plan.tensors}
    others = plans.keys() ^ bases.keys()
    others |= {name for name, entry in whole.items() if name in plans and not _is_alike(plans[name], entry)}
    calculated = [
        entry
        for name, entry in whole.items()
        if name not in others and entry.is_float and plans[name].action != "rescaled"
    ]
    merged = [] if plan.edit.method.is_linear else [entry.name for entry in calculated if plans[entry.name].terms]
    rest = [entry for entry in calculated if entry.name not in set(merged)]
    sampled, wrong = compare_samples(rest, seed, lambda entry, *span: recompute(plan, plans[entry.name], *span))
    if merged:
        count, differ = merge_again(plan, whole, merged, seed, listener)
        sampled, wrong = sampled + count, (*wrong, *differ)
    wrong, reasons = exclude_changed_inputs(plan, own, bases, wrong)
    if others:
        reasons = (f"the base has changed since: its tensors differ, such as {min(others)}", *reasons)
    tolerance = TOLERANCE if merged and plan.edit.method.needs_torch else 0.0
    return replace(result, sampled=sampled, wrong=wrong, unsampled="; ".join(reasons), tolerance=tolerance)


def _is_alike(plan: TensorPlan, entry: TensorEntry) -> bool:
    return (plan.dtype, plan.source.shape) == (entry.dtype, entry.shape)


def _plan(edit: Edit, listener: Listener, scratch: ExitStack) -> tuple[EditPlan, Mapping[str, TensorEntry]]:
    """Return the plan, and the model's own tensors if rows were appended to them."""
    checkpoint = open_checkpoint(resolve_model(str(edit.model), listener).path)
    operands = open_edit(edit, checkpoint, listener)
    longer = scratch.enter_context(enlarged(checkpoint, operands, edit.vocab))
    return plan_edit(longer.base, operands, edit), longer.before
