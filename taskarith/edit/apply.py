"""The verb `apply`: base + alpha * sum of coefficient * vector, written as a model folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskarith.arithmetic.parallel import check_device, device_of
from taskarith.calls import named
from taskarith.cards.card import write_card
from taskarith.checkpoints.dtypes import VECTOR_DTYPES, dtype_name
from taskarith.checkpoints.forecast import Forecast
from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import check_target, publish
from taskarith.checkpoints.reader import combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.checkpoints.rooms import short_name
from taskarith.checkpoints.sidecars import check_sidecars
from taskarith.checkpoints.team import ALONE, Team, launched_team
from taskarith.edit.agreement import agreed_plan
from taskarith.edit.chat import chat_notes, read_chat_template, write_chat_template
from taskarith.edit.dry_run import forecast_edit
from taskarith.edit.edit import Edit
from taskarith.edit.enlarging import enlarged
from taskarith.edit.jobs import started_team
from taskarith.edit.operands import check_bases, named_paths, open_edit
from taskarith.edit.plan import EditPlan, plan_edit
from taskarith.edit.remarks import left_out, rounding, strangers, understood, whole
from taskarith.edit.repeat import check_inputs, record_edit
from taskarith.edit.rows import rows_left_alone
from taskarith.edit.run import RunResult, run_plan
from taskarith.edit.tokenizer import choose_tokenizer, write_tokenizer
from taskarith.errors import UsageError
from taskarith.merging.methods import LINEAR, Method
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef
from taskarith.vectors.open import choose_base
from taskarith.vectors.vocabulary import UNION, check_vocab

__all__ = ["ApplyResult", "apply"]

_MOST_JOBS = max(16, 2 * (os.cpu_count() or 1))
"""Processes on one machine; each takes 200 MB before it does anything."""


@dataclass(frozen=True)
class ApplyResult:
    """What an edit did, or with ``dry_run`` would do.

    :param path: The output folder.
    :param model: The model that was edited.
    :param actions: Number of tensors that are edited, tied, copied, converted.
    :param read_bytes: Bytes of tensors read.
    :param write_bytes: Bytes of tensors written.
    :param fingerprint: Of the output's tensors; empty for a dry run, and in all but the first of several processes.
    :param remarks: What the user should know: a vector made from another model, files left out.
    :param undo_bytes: Size of the patch back to the input; 0 without ``keep_undo``.
    :param forecast: Of a dry run: memory, time, what would fail.
    """

    path: Path
    model: str
    actions: dict[str, int]
    read_bytes: int
    write_bytes: int
    fingerprint: str
    remarks: tuple[str, ...] = ()
    undo_bytes: int = 0
    forecast: Forecast | None = None


def apply(
    model: str | Path | None = None,
    *,
    add: str | Path | Sequence[str | Path] = (),
    negate: str | Path | Sequence[str | Path] = (),
    operands: Sequence[OperandRef] = (),
    protect: str | Path | Sequence[str | Path] = (),
    weights: str | Path | None = None,
    alpha: float = 1.0,
    scale: Mapping[str, Any] | Sequence[str] = (),
    output_dir: str | Path | None = None,
    dtype: str | None = None,
    vocab: str | None = None,
    ignore_buffers: bool = False,
    chat_template: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str = "auto",
    max_shard_size: int | None = None,
    overwrite: bool = False,
    method: Method | str = LINEAR,
    jobs: int = 1,
    launched: bool = False,
    keep_undo: bool = False,
    sha256: bool = False,
    dry_run: bool = False,
    model_fingerprint: str = "",
    listener: Listener = SILENT,
) -> ApplyResult:
    """Write ``model + alpha * (sum of added - sum of negated vectors)``, or another merge of them, as a model folder.

    Evaluated in float64 and rounded once to the output dtype; see ``arithmetic.kernels.linear.linear``.

    :param model: Folder, hub id or GGUF; None takes the base that the first vector records.
    :param add: Vectors as ``V`` or ``V:coefficient``: a task vector file, a LoRA folder, a fine-tuned model; one that
        does not record its base is given with it, ``V@@BASE``.
    :param negate: Likewise, subtracted.
    :param operands: More vectors, each with a coefficient and a scale of its own.
    :param protect: Vectors of what is to be kept, which method ``project`` takes out of the sum.
    :param weights: A weight for each parameter, for method ``perta``: a file that ``importance`` wrote.
    :param alpha: Multiplies all coefficients.
    :param scale: Multiplies them tensor by tensor: ``{"mlp": 0.5, "layers": [0, 1]}``; see ``spec.parse_scales``.
    :param output_dir: Folder to write; None makes a name from the model and the edit, in the current folder.
    :param dtype: float32, float64, bfloat16 or float16 for all float tensors; None keeps the base's.
    :param vocab: Where vocabularies differ in size, ``intersection`` edits the rows that all have, and ``union`` adds
        rows of new tokens as the vector that has them has them, with its tokenizer; None refuses that.
    :param ignore_buffers: Leave out buffers that only one of a fine-tune, its base and the model has, such as masks.
    :param chat_template: Give the output the chat template of this model, of this ``.jinja`` file, or this template;
        None keeps the base's.
    :param tokenizer: Give the output the tokenizer of this model, with its chat template; None keeps the base's, or
        with ``union`` takes that of the folder that brings new tokens.
    :param device: auto, cpu or cuda[:N]; changes no bit but of tsv, iso_c, wudi and low_rank, which decompose whole
        matrices: for these auto is a GPU, if there is one, and the CPU otherwise.
    :param max_shard_size: Bytes of tensors in one file; None keeps the base's files.
    :param overwrite: Replace an existing output.
    :param method: Merge method; or its name; see ``merging.methods.parse_method``. By default they are added up.
    :param jobs: Processes on this machine that write the output together, each with its part of the cores.
    :param launched: All processes that ``accelerate launch`` started make this call, and write the output together.
    :param keep_undo: Write a patch beside the output from which ``undo`` restores the input, bit for bit.
    :param sha256: Record the SHA-256 of whole weight files; without it that of their headers, since all tensors have
        fingerprints.
    :param dry_run: Read headers only and write nothing.
    :param model_fingerprint: What the model must have, as an earlier edit recorded it; empty if that does not matter.
    :param listener: Receives progress updates.
    :raises UsageError: No vector, no model, an unknown dtype or device, a scale that names no tensor, a fine-tune
        without a base.
    :raises MismatchError: A vector does not fit the model, the base that it was made from is not found, or the result
        is not finite.
    :raises OutputError: The output exists or cannot be written.
    """
    check_vocab(vocab)
    if not math.isfinite(alpha):
        raise UsageError(f"alpha is {alpha}", "Give a finite number, as in --alpha 1.0")
    if not 1 <= jobs <= _MOST_JOBS:
        raise UsageError(f"jobs is {jobs}", f"Give a number of processes from 1 to {_MOST_JOBS}, as in --jobs 4")
    if keep_undo and (chat_template or tokenizer or vocab == UNION):
        raise UsageError(
            "an edit that adds rows of new tokens, a tokenizer or a chat template cannot be undone",
            "Leave out --keep-undo, or what adds these.",
        )
    if vocab == UNION and (jobs > 1 or (launched and launched_team().size > 1)):
        raise UsageError("rows of new tokens are added by one process", "Leave out --jobs, and start one process.")
    edit = replace(
        Edit.from_options(add, negate, operands, protect=protect, weights=weights, scale=scale, method=method),
        model=named(model),
        model_fingerprint=model_fingerprint,
        alpha=alpha,
        dtype=VECTOR_DTYPES[dtype_name(dtype)] if dtype else None,
        max_shard_size=max_shard_size,
        vocab=vocab,
        tokenizer=named(tokenizer) or "",
        ignore_buffers=ignore_buffers,
        chat_template=named(chat_template) or "",
    )
    place = check_device(device, decomposes=edit.method.needs_whole_tensors)
    if device == "auto" and place != "cpu":
        listener.note(f"{edit.method.name} decomposes whole matrices, which is done on the GPU; --device cpu does not")
    output = _Output(output_dir, overwrite, place, keep_undo, sha256, dry_run)
    if jobs == 1 or dry_run:
        return _apply(edit, output, team=launched_team() if launched else ALONE, listener=listener)
    with started_team(jobs, _apply, {"edit": edit, "output": output}) as team:
        return _apply(edit, output, team=team, listener=listener)


@dataclass(frozen=True)
class _Output:
    """Where and how an edit is written; it decides no byte, but where whole matrices are decomposed."""

    folder: str | Path | None
    overwrite: bool
    device: str
    keep_undo: bool
    sha256: bool
    dry_run: bool


def _apply(edit: Edit, output: _Output, *, team: Team, listener: Listener = SILENT) -> ApplyResult:
    chosen = choose_base(edit.model, edit.operands[:1], _hint(edit.operands[0]), listener)
    resolved = chosen.resolved
    target = Path(output.folder if output.folder is not None else _default_name(resolved, edit))
    inputs = [resolved.path, *named_paths(edit.operands), edit.chat_template, edit.tokenizer]
    check_target(target, output.overwrite, is_folder=True, inputs=inputs)
    base = chosen.open()
    check_sidecars(base.path, base.sidecars)
    if base.scalings and edit.dtype:
        raise UsageError(
            f"{base.path} is stored as float8 with scales; its dtype cannot be changed here",
            "Leave out --dtype, or dequantise it with transformers (model.dequantize()) and save it.",
        )
    if base.scalings and not edit.method.is_linear:
        raise UsageError(
            f"{base.path} is stored as float8 with scales, which are edited linearly only",
            "Leave out --method, or dequantise it with transformers (model.dequantize()) and save it.",
        )
    operands = open_edit(edit, base, listener)
    with enlarged(base, operands, edit.vocab) as longer:
        plan = plan_edit(longer.base, operands, edit)
        template = read_chat_template(edit.chat_template, listener) if edit.chat_template else ""
        taken = choose_tokenizer(edit.tokenizer, longer, listener)
        remarks = left_out(plan) + understood(plan) + (whole(plan) if output.dry_run else []) + longer.remarks(taken)
        remarks += (rows_left_alone(plan) if edit.vocab else []) + chat_notes(base.path, operands, template, taken)
        if output.dry_run:
            found = _result(target, resolved, plan, RunResult())
            return replace(found, remarks=tuple(remarks), forecast=forecast_edit(plan, target))
        inputs += [*plan.states, taken or ""]
        goal = agreed_plan(plan, team, listener) if longer.base is base else ""  # new rows lie in a temporary file
        if goal and (place := _decomposing(plan, output)) != "cpu":
            goal += f"-{place}"
        parts = [shard.name for shard in plan.shards]
        with publish(
            target, output.overwrite, is_folder=True, plan=goal, parts=parts, team=team, inputs=inputs
        ) as workplace:
            result = run_plan(plan, workplace, device=device_of(team.rank, output.device), listener=listener)
            if not team.is_first:
                return _result(target, resolved, plan, result)
            result.base = longer.fingerprints(result.base)
            check_inputs(plan, result)
            chosen.check(result.base)
            check_bases(operands, result.base)
            undo_bytes = _write_undo(plan, workplace.path, listener) if output.keep_undo else 0
            if taken is not None:
                write_tokenizer(workplace.path, taken)
            if template:
                write_chat_template(workplace.path, template)
            remarks += strangers(operands, result.base, str(base.path)) + rounding(result)
            done = replace(edit, tokenizer=str(taken.resolve()) if taken else "", chat_template=template)
            record = record_edit(done, plan, resolved, result)
            if (place := _decomposing(plan, output)) != "cpu":
                record["device"] = place
            headers = () if output.sha256 else parts
            write_card(workplace.path, record, base.path)
            write_provenance(workplace.path, record, target, headers=headers)
    return replace(_result(target, resolved, plan, result), remarks=tuple(remarks), undo_bytes=undo_bytes)


def _result(target: Path, model: ResolvedModel, plan: EditPlan, result: RunResult) -> ApplyResult:
    return ApplyResult(
        path=target,
        model=str(model.path),
        actions=dict(sorted(plan.actions.items())),
        read_bytes=plan.read_bytes,
        write_bytes=plan.write_bytes,
        fingerprint=combine_fingerprints(result.output) if result.output else "",
    )


def _decomposing(plan: EditPlan, output: _Output) -> str:
    """Return the kind of device that decomposes matrices, whose last bits may depend on it."""
    return output.device.partition(":")[0] if plan.whole_tensors else "cpu"


def _hint(reference: OperandRef) -> str:
    command = f"taskarith apply MODEL {reference.option(reference.base)}"
    is_file = Path(reference.name).is_file()
    how = "" if reference.base or is_file else f"; the base of a fine-tune is named so: {reference.name}@@BASE"
    return f"Name the model: {command}{how}"


def _write_undo(plan: EditPlan, folder: Path, listener: Listener) -> int:
    from taskarith.edit.undo_write import write_undo

    return write_undo(plan, folder, listener)


def _default_name(model: ResolvedModel, edit: Edit) -> str:
    parts = [Path(model.recorded_name).name.removesuffix(".gguf")]
    for reference in edit.operands:
        if reference.role:
            continue
        weight = abs(reference.coefficient)
        name = Path(reference.name).name.removesuffix(".safetensors")
        parts.append(
            f"{'minus' if reference.coefficient < 0 else 'plus'}-{name}" + (f"x{weight:g}" if weight != 1 else "")
        )
    parts += [] if edit.method.is_linear else [edit.method.name]
    return short_name("-".join([*parts, f"alpha{edit.alpha:g}"]))
