"""The verb `combine`: a linear combination of task vectors, written as a new one."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, filled_chunks, work_through
from taskarith.cards.card import write_card
from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors
from taskarith.checkpoints.dtypes import VECTOR_DTYPES, dtype_name
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.journal import are_fingerprints
from taskarith.checkpoints.provenance import command_line, release, versions, write_provenance
from taskarith.checkpoints.publish import Workplace, check_target, publish, publish_folder
from taskarith.checkpoints.reader import (
    TensorReader,
    check_unchanged,
    file_states,
    fingerprint_bytes,
)
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.checkpoints.writer import HashingWriter, LateHeader, sized_files
from taskarith.edit.inputs import NOTHING, gather, kernels_for, open_inputs, term_fingerprints
from taskarith.edit.operands import Operand, check_bases, named_paths, open_operands
from taskarith.edit.remarks import strangers
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_combination
from taskarith.tidy import Brief
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.file import check_delta, vector_metadata
from taskarith.vectors.locate import recorded_name
from taskarith.vectors.open import CommonBase, choose_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["CombineResult", "combine"]

_PLACEHOLDER = "0" * 32


@dataclass(frozen=True, repr=False)
class CombineResult(Brief):
    """A combination that was written.

    :param path: The vector file or adapter folder.
    :param kind: dense or lora.
    :param base: The model that it belongs to.
    :param tensors: Number of tensors with a delta.
    :param nbytes: Size of the weights that were written.
    :param rank: Greatest rank of an adapter; 0 for a dense vector.
    :param energy: Share of the sum of squares that an adapter of lower rank keeps; 1 where nothing is left out.
    :param remarks: What the user should know: a vector made from another model.
    """

    path: Path
    kind: str
    base: BaseRecord
    tensors: int
    nbytes: int
    rank: int = 0
    energy: float = 1.0
    remarks: tuple[str, ...] = ()

    def _brief(self) -> dict[str, object]:
        names = ("path", "kind", "tensors", "nbytes", *(("rank", "energy") if self.kind == "lora" else ()))
        return {"base": str(self.base), **{name: getattr(self, name) for name in names}}


def combine(
    expression: str | Sequence[OperandRef],
    output: str | Path,
    *,
    base: str | None = None,
    dtype: str = "float32",
    rank: int | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> CombineResult:
    """Write ``sum of c_i * V_i``, evaluated in float64 and rounded once, as a dense task vector or a LoRA folder.

    :param expression: Vectors of any kind with coefficients and signs, as in ``V1:0.6 - V2:0.4``; a fine-tune that does
        not record its base is given with it, ``V@@BASE:0.6``. Or the same as a list.
    :param output: The file to write, ``*.safetensors``; or a folder where all vectors are LoRA adapters, whose factors
        are then put side by side.
    :param base: Their base; None takes the first one that one of them is given with or records.
    :param dtype: Of the deltas: float32, float64, bfloat16 or float16.
    :param rank: Of an adapter, at most; None keeps the sum of the ranks, and with it the whole combination.
    :param overwrite: Replace an existing output.
    :param listener: Receives progress updates.
    :raises UsageError: The expression, the dtype, the rank or the output makes no sense, or no base is known.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the result is not finite.
    :raises OutputError: The output exists or cannot be written.
    """
    references = parse_combination(expression) if isinstance(expression, str) else expression
    target = Path(output)
    dtype = dtype_name(dtype)
    is_folder = target.suffix != ".safetensors"
    if rank is not None and (rank < 1 or not is_folder):
        raise UsageError(f"rank {rank} does not fit {target}", "Give 1 or more, and name a folder, as in -o mixed")
    inputs = [base or "", *named_paths(references)]
    check_target(target, overwrite, is_folder=is_folder, inputs=inputs)
    chosen = choose_base(base, references, "Name it: taskarith combine ... --base MODEL", listener)
    checkpoint = chosen.open()
    operands = open_operands(references, checkpoint, listener, common=CommonBase("--base", base is not None))
    job = _Job(chosen, checkpoint, tuple(operands), tuple(references), VECTOR_DTYPES[dtype])
    if is_folder:
        with publish_folder(target, overwrite, inputs=[checkpoint.path, *job.states()]) as folder:
            return _write_folder(job, folder, target, rank, listener)
    inputs = [checkpoint.path, *job.states()]
    with publish(target, overwrite, is_folder=False, plan=job.fingerprint(), inputs=inputs) as place:
        return _write_dense(job, place, target, listener)


def _write_folder(job: _Job, folder: Path, target: Path, rank: int | None, listener: Listener) -> CombineResult:
    from taskarith.edit.combine_lora import combine_factors

    states, record = job.states(), job.record(listener)
    found = combine_factors(job.checkpoint, record, job.operands, folder, dtype=job.dtype, rank=rank, listener=listener)
    check_unchanged(states)
    described = {"kind": "combination", "base": record.to_json(), "operands": job.described()}
    described["energy"] = found.energy
    write_card(folder, described, job.checkpoint.path)
    write_provenance(folder, described, target)
    largest = max(found.ranks.values(), default=0)
    remarks = tuple(strangers(job.operands, record.tensors, str(record)))
    return CombineResult(target, "lora", record, len(found.ranks), found.nbytes, largest, found.energy, remarks)


@dataclass(frozen=True)
class _Job:
    chosen: ChosenBase
    checkpoint: Checkpoint
    operands: tuple[Operand, ...]
    references: tuple[OperandRef, ...]
    dtype: str

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides the bytes of the result."""
        terms = [(one.name, one.base, float(one.coefficient).hex()) for one in self.references]
        parts = [self.dtype, self.base.recorded_name, self.base.revision, terms, self.states(), release()]
        parts += [one.decisions() for one in self.operands]
        return fingerprint_bytes(json.dumps(["combine", *parts, command_line()]).encode())

    @property
    def base(self) -> ResolvedModel:
        """The model that the result is bound to."""
        return self.chosen.resolved

    def states(self) -> dict[str, list[int]]:
        """Return what changes when an input changes."""
        files = {tensor.path for tensor in self.checkpoint.tensors.values()}
        return file_states(files.union(*(operand.vector.files for operand in self.operands)))

    def record(self, listener: Listener) -> BaseRecord:
        """Fingerprint the base and return how it is recorded.

        :raises MismatchError: It is another model than a vector records that was made from it.
        """
        fingerprints = fingerprint_tensors(self.checkpoint, listener)
        self.chosen.check(fingerprints)
        check_bases(self.operands, fingerprints)
        return BaseRecord.of(self.base, fingerprints)

    def described(self) -> list[dict[str, Any]]:
        """Return what is recorded of the operands."""
        return [
            {
                "name": recorded_name(one, operand.vector.name),
                "coefficient": one.coefficient,
                "kind": operand.vector.kind,
                **({"base": str(operand.own.record)} if operand.own is not None else {}),
            }
            for one, operand in zip(self.references, self.operands, strict=True)
        ]

    def layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return name, dtype and shape of every delta of the result, in the order of the base."""
        tensors = self.checkpoint.tensors
        return [
            (name, self.dtype, tensors[name].shape)
            for name in tensors
            if any(name in operand.vector.shapes for operand in self.operands)
        ]

    def tied(self) -> dict[str, str]:
        """Return the tensors that take the delta of another one with every operand that moves that one."""
        own = {name for name, _, _ in self.layout()}
        return {
            name: to for operand in self.operands for name, to in operand.tied.items() if name not in own and to in own
        }


def _write_dense(job: _Job, place: Workplace, target: Path, listener: Listener) -> CombineResult:
    layout, journal, states = job.layout(), place.journal, job.states()
    header = LateHeader(layout, _metadata(job, target, None, None))
    size = header.nbytes + sum(math.prod(shape) * ITEM_SIZES[dtype] for _, dtype, shape in layout)
    entries = {name: TensorEntry(name, dtype, shape, place.path, header.offsets[name]) for name, dtype, shape in layout}
    with TensorReader() as reader, sized_files({place.path: size}) as files:
        done = journal.intact(entries.values(), listener, _fits)

        def do(entry: TensorEntry, calculator: Calculator, stop: threading.Event) -> int:
            found = _add_up(job, entry, calculator, reader, files[place.path], stop)
            if not stop.is_set():
                journal.record(entry.name, found)
            return entry.elements

        tasks = sorted((one for name, one in entries.items() if name not in done), key=lambda one: -one.elements)
        workers = Workers(kernels=kernels_for("linear", (operand.vector for operand in job.operands)))
        work_through(tasks, do, listener, "combining", sum(entry.elements for entry in tasks), workers)
        broken = sorted(name for name, found in journal.done.items() if not found["finite"])
        if broken:
            raise MismatchError(
                f"{len(broken)} deltas are not finite: {name_some(broken)}",
                "An input has infinities or NaN, or the sum overflows this dtype: check, or use --dtype float32.",
            )
        record = job.record(listener)
        check_unchanged(states)
        header.write(files[place.path], layout, _metadata(job, target, record, journal.done))
    remarks = tuple(strangers(job.operands, record.tensors, str(record)))
    return CombineResult(target, "dense", record, len(layout), size, remarks=remarks)


def _fits(entry: TensorEntry, found: Mapping[str, Any]) -> bool:
    """Tell whether what a journal notes of a delta can have been noted by this combination."""
    del entry
    return are_fingerprints(found.get("output")) and isinstance(found.get("finite"), bool) and len(found) == 2


def _add_up(
    job: _Job, entry: TensorEntry, calculator: Calculator, reader: TensorReader, descriptor: int, stop: threading.Event
) -> dict[str, Any]:
    """Calculate and write one delta of the result."""
    names = [(operand, operand.delta_of(entry.name)) for operand in job.operands]
    moving = [(operand, name) for operand, name in names if name is not None]
    deltas = [(operand.coefficient, operand.vector.delta(name)) for operand, name in moving]
    what = gather(NOTHING, entry.shape, deltas, entry.dtype)
    calculator.begin(what.recipe)
    inputs = open_inputs(what, reader, calculator)
    writer, is_finite = HashingWriter(descriptor, entry.dtype, entry.shape, entry.offset), True
    for start, end in filled_chunks(calculator, inputs, entry.elements, CHUNK_ELEMENTS, stop):
        data, finite = calculator.linear(start, end)
        writer.append(data)
        is_finite = is_finite and finite
    if not stop.is_set():
        for (operand, name), found in zip(moving, term_fingerprints(what, inputs), strict=True):
            check_delta(operand.vector, name, entry.shape, found)
    return {"output": writer.fingerprint(), "finite": is_finite}


def _metadata(job: _Job, target: Path, record: BaseRecord | None, found: dict[str, Any] | None) -> dict[str, str]:
    """Describe the result; before it is known, with placeholders as long as what will stand there."""
    fingerprints = dict.fromkeys(job.checkpoint.tensors, _PLACEHOLDER)
    base = record or BaseRecord.of(job.base, fingerprints)
    deltas = {name: str(found[name]["output"]) if found else _PLACEHOLDER for name, _, _ in job.layout()}
    return vector_metadata(
        "dense",
        base,
        {"name": "a combination", "combination": job.described()},
        job.dtype,
        job.tied(),
        target,
        deltas=json.dumps(deltas, separators=(",", ":")),
        command=command_line(),
        versions=json.dumps(versions(), separators=(",", ":")),
    )
