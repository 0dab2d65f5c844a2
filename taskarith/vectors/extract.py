"""The verb `extract`: write fine-tuned minus base as a task vector file, piece by piece."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import Workers, check_device, work_through
from taskarith.checkpoints.checkpoint import Checkpoint, is_adapter, open_checkpoint
from taskarith.checkpoints.dtypes import VECTOR_DTYPES
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, build_header
from taskarith.checkpoints.journal import are_fingerprints
from taskarith.checkpoints.provenance import command_line, read_provenance, release, versions
from taskarith.checkpoints.publish import Workplace, check_target, publish
from taskarith.checkpoints.reader import (
    TensorReader,
    check_unchanged,
    combine_fingerprints,
    file_states,
    fingerprint_bytes,
)
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.checkpoints.writer import HashingWriter, sized_files, write_at
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.codecs.error import Loss
from taskarith.vectors.codecs.write import Form, packed_metadata, write_packed
from taskarith.vectors.difference import AdapterSource, PairSource, subtract
from taskarith.vectors.file import vector_metadata
from taskarith.vectors.forms import choose_form
from taskarith.vectors.open import choose_base, recorded_base
from taskarith.vectors.vector import BaseRecord
from taskarith.vectors.vocabulary import check_vocab

__all__ = ["ExtractResult", "extract", "extract_tensors", "find_base"]

"""Names of dtypes as users and transformers write them, and as safetensors does."""

_PLACEHOLDER = "0" * 32


@dataclass(frozen=True)
class ExtractResult:
    """What was extracted.

    :param path: The vector file.
    :param base: The base, as recorded in it.
    :param tensors: Number of tensors with a delta.
    :param elements: Number of their elements.
    :param inexact: Elements that ``base + delta``, rounded to the fine-tune's dtype, does not give back to the bit;
        None for an adapter, whose fine-tuned weights are not stored anywhere.
    :param moved: Elements whose delta is not zero.
    :param norm: Euclidean norm of the whole vector.
    :param nbytes: Size of the file.
    :param kind: How the deltas are stored: dense, exact, sparse or quantised.
    :param loss: What was lost on purpose; None where nothing was.
    :param ignored: Buffers that only one side has and that were left out.
    :param remarks: What the user should know: a fine-tune that records another base than the one that was named.
    """

    path: Path
    base: BaseRecord
    tensors: int
    elements: int
    inexact: int | None
    moved: int
    norm: float
    nbytes: int
    kind: str = "dense"
    loss: Loss | None = None
    ignored: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def extract(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    exact: bool = False,
    top_k: float | None = None,
    top_k_per: str = "global",
    rows: float | None = None,
    bits: int | None = None,
    ignore_buffers: bool = False,
    vocab: str | None = None,
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> ExtractResult:
    """Write the task vector ``finetuned - base`` to a safetensors file.

    :param base: Folder, hub id or GGUF; None where the fine-tune records its base.
    :param finetuned: A fine-tuned model, or a LoRA folder (its merged deltas are written).
    :param output: The file to write, usually ``*.safetensors``.
    :param dtype: Dtype of the deltas: float32, float64 (exact), bfloat16 or float16.
    :param device: auto (the CPU), cpu or cuda[:N]; changes no bit.
    :param exact: Store what turns the base's bits into the fine-tune's; a coefficient of 1 restores these.
    :param top_k: Keep this share of the entries, those with the largest magnitudes.
    :param top_k_per: ``global``: of all entries together; ``tensor``: of each tensor's.
    :param rows: Keep this share of the rows of each matrix, those with the largest norms.
    :param bits: Store 8, 4 or 1 bits an entry and a float32 scale a row.
    :param ignore_buffers: Leave out buffers that only one of the two has, such as masks and rotary frequencies.
    :param vocab: Where vocabularies differ in size, ``intersection`` takes the rows that both models have, ``union``
        also those that only the fine-tune has, as it has them; None refuses that.
    :param overwrite: Replace an existing file.
    :param listener: Receives progress updates.
    :raises MismatchError: The two do not correspond, or a delta is not finite.
    :raises OutputError: The output exists or cannot be written.
    :raises UsageError: The dtype or device is unknown, or no base is given or recorded.
    """
    if dtype not in VECTOR_DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", f"Choose one of {', '.join(VECTOR_DTYPES)}.")
    code = VECTOR_DTYPES[dtype]
    form = choose_form(dtype=code, exact=exact, top_k=top_k, top_k_per=top_k_per, rows=rows, bits=bits)
    check_vocab(vocab)
    if vocab and form:
        raise UsageError(
            "vocabularies of different sizes are for deltas that are stored as they are",
            "Leave out --vocab, or --exact, --top-k, --rows and --bits.",
        )
    target, place = Path(output), check_device(device)
    check_target(target, overwrite, is_folder=False, inputs=[base or "", finetuned])
    origin = find_base(base, finetuned, listener)
    tuned = resolve_model(finetuned, listener)
    before = origin.open()
    is_pair = not is_adapter(tuned.path)
    source = (
        PairSource(before, open_checkpoint(tuned.path), ignore_buffers=ignore_buffers, vocab=vocab)
        if is_pair
        else AdapterSource(before, tuned.path, listener)
    )
    job = _Job(origin.resolved, tuned, before, source, code, file_states(source.files), target)
    plan, inputs = "" if form else job.fingerprint(), [before.path, tuned.path, *source.files]
    with publish(target, overwrite, is_folder=False, plan=plan, inputs=inputs) as workplace:
        write = partial(_write_packed, form=form) if form else _write
        result = write(workplace, job, place, listener)
        remarks = origin.check(result.base.tensors)
    return replace(result, path=target, remarks=remarks)


def extract_tensors(
    base: ResolvedModel,
    tuned: ResolvedModel,
    before: Checkpoint,
    source: PairSource,
    place: Path,
    target: Path,
    dtype: str,
    device: str,
    listener: Listener = SILENT,
) -> ExtractResult:
    """Write the deltas of a source to a file inside an output that is being built; see ``extract``.

    :param place: The file.
    :param target: Where it will lie.
    """
    job = _Job(base, tuned, before, source, VECTOR_DTYPES[dtype], file_states(source.files), target)
    with publish(place, is_folder=False) as workplace:
        return replace(_write(workplace, job, device, listener), path=place)


def find_base(base: str | None, finetuned: str, listener: Listener) -> ChosenBase:
    """Return the base that is named, or that the fine-tune records.

    :raises UsageError: It records none.
    :raises MismatchError: What it records is not found.
    """
    hint = f"Name the base: taskarith extract BASE {finetuned} -o ..."
    chosen = choose_base(base, [OperandRef(finetuned, 1.0)], hint, listener)
    return replace(chosen, recorded=recorded_base(finetuned, listener, hint=hint))


@dataclass(frozen=True)
class _Job:
    base: ResolvedModel
    tuned: ResolvedModel
    before: Checkpoint
    source: PairSource | AdapterSource
    dtype: str
    states: dict[str, list[int]]
    target: Path

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides the bytes of the vector."""
        source = self.source
        names = [self.base.recorded_name, self.base.revision, self.tuned.recorded_name]
        layout = [source.shapes, source.base_rows, source.ignored, source.tied, source.rest]
        parts = [self.dtype, *names, self.states, *layout, release()]
        return fingerprint_bytes(json.dumps(["extract", *parts, command_line()]).encode())


def _write(place: Workplace, job: _Job, device: str, listener: Listener) -> ExtractResult:
    source, journal = job.source, place.journal
    layout = [(name, job.dtype, source.shapes[name]) for name in job.before.tensors if name in source.shapes]
    total = sum(math.prod(shape) for _, _, shape in layout)
    reserve, offsets = build_header(layout, _metadata(job, None, total))
    size = len(reserve) + total * ITEM_SIZES[job.dtype]
    entries = {name: TensorEntry(name, job.dtype, shape, place.path, offsets[name]) for name, _, shape in layout}
    with TensorReader() as reader, sized_files({place.path: size}) as files:
        done = journal.intact(entries.values(), listener, partial(_fits, source))

        def do(entry: TensorEntry, calculator: Calculator, stop: threading.Event) -> int:
            calculator.begin(source.recipe(entry.name, job.dtype))
            writer = HashingWriter(files[place.path], entry.dtype, entry.shape, entry.offset)
            found = subtract(source, entry.name, calculator, reader, writer, stop)
            if not stop.is_set():
                journal.record(entry.name, found)
            return entry.elements

        tasks = sorted(
            (entry for name, entry in entries.items() if name not in done), key=lambda entry: -entry.elements
        )
        work_through(tasks, do, listener, "extracting", sum(entry.elements for entry in tasks), Workers(device))
        _check_finite(journal.done)
        check_unchanged(job.states)
        header, places = build_header(layout, _metadata(job, journal.done, total), length=len(reserve))
        if places != offsets:
            raise AssertionError("the header outgrew its reserve")
        write_at(files[place.path], header, 0)
    return _result(place, job, journal.done, total)


def _fits(source: PairSource | AdapterSource, entry: TensorEntry, found: Mapping[str, Any]) -> bool:
    """Tell whether what a journal notes of a delta can have been noted by this extraction."""
    counts = [found.get("inexact"), found.get("moved")]
    sides = ("base", "finetuned") if source.has_result else ()
    return (
        are_fingerprints(found.get("output"), *(found.get(side) for side in sides))
        and source.rest.get(entry.name, {}).items() <= found.items()
        and all(type(count) is int and 0 <= count <= entry.elements for count in counts)
        and isinstance(found.get("squares"), float)
        and isinstance(found.get("finite"), bool)
        and found.keys() <= {"base", "finetuned", "output", "inexact", "moved", "squares", "finite"}
    )


def _write_packed(place: Workplace, job: _Job, device: str, listener: Listener, form: Form) -> ExtractResult:
    total = sum(math.prod(shape) for shape in job.source.shapes.values())

    def describe(found: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
        return _metadata(job, found, total) | packed_metadata(job.source, form, found)

    found = write_packed(place.path, job.source, form, describe, listener, Workers(device))
    if form.is_lossy:
        _check_finite(found)
    check_unchanged(job.states)
    loss = Loss.of(found) if form.is_lossy else None
    return replace(_result(place, job, found, total), kind=form.kind, loss=loss)


def _result(place: Workplace, job: _Job, found: Mapping[str, Mapping[str, Any]], total: int) -> ExtractResult:
    inexact = _count(found, "inexact") if job.source.has_result else None
    norm = math.sqrt(math.fsum(one["squares"] for one in found.values()))
    record = BaseRecord.of(job.base, _prints(job, found, "base"))
    size = place.path.stat().st_size
    moved = _count(found, "moved")
    return ExtractResult(place.path, record, len(found), total, inexact, moved, norm, size, ignored=job.source.ignored)


def _count(found: Mapping[str, Mapping[str, Any]], key: str) -> int:
    return sum(one[key] for one in found.values())


def _check_finite(found: Mapping[str, Mapping[str, Any]]) -> None:
    broken = [name for name, one in found.items() if not one["finite"]]
    if broken:
        is_same = all(found[name].get("base") == found[name].get("finetuned", "") for name in broken)
        raise MismatchError(
            f"{len(broken)} deltas are not finite: {name_some(broken)}",
            f"Both models have the same bits there, as a mask has: use --exact, and apply with --scale '{broken[0]}=0'"
            if is_same
            else "A model has infinities or NaN there, or this dtype overflows: check, or use --dtype float32.",
        )


def _prints(job: _Job, found: Mapping[str, Mapping[str, Any]], side: str) -> dict[str, str]:
    """Return the fingerprint of every tensor of one side, in an order that is always the same."""
    whole = {**job.source.rest, **found}
    return {name: str(whole[name][side]) for name in sorted(whole) if side in whole[name]}


def _metadata(job: _Job, found: Mapping[str, Mapping[str, Any]] | None, total: int) -> dict[str, str]:
    """Describe the vector; before it is known, with placeholders at least as long as what will stand there."""
    source = job.source
    fingerprints = _prints(job, found, "base") if found is not None else dict.fromkeys(job.before.tensors, _PLACEHOLDER)
    deltas = {name: str(found[name]["output"]) if found is not None else _PLACEHOLDER for name in source.shapes}
    fingerprint = combine_fingerprints(_prints(job, found, "finetuned")) if found is not None else _PLACEHOLDER
    finetuned = BaseRecord(job.tuned.recorded_name, job.tuned.revision, fingerprint).to_json()
    return vector_metadata(
        "dense",
        BaseRecord.of(job.base, fingerprints),
        {**finetuned, "training": read_provenance(job.tuned.path)},
        job.dtype,
        source.tied,
        job.target,
        deltas=json.dumps(deltas, separators=(",", ":")),
        inexact=str(_count(found, "inexact") if found is not None else total) if source.has_result else "",
        moved=str(_count(found, "moved") if found is not None else total),
        **({"ignored_buffers": json.dumps(source.ignored)} if source.ignored else {}),
        **({"base_rows": json.dumps(source.base_rows)} if source.base_rows else {}),
        command=command_line(),
        versions=json.dumps(versions(), separators=(",", ":")),
    )
