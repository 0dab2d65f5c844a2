"""Write the deltas of a fine-tune to a file: tensor by tensor as they are, or packed; piece by piece either way."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import Workers, work_through
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.journal import are_fingerprints
from taskarith.checkpoints.provenance import command_line, read_provenance, release, versions
from taskarith.checkpoints.publish import Workplace
from taskarith.checkpoints.reader import (
    TensorReader,
    check_unchanged,
    combine_fingerprints,
    fingerprint_bytes,
)
from taskarith.checkpoints.resolve import ResolvedModel
from taskarith.checkpoints.writer import HashingWriter, LateHeader, sized_files
from taskarith.errors import MismatchError, name_some
from taskarith.progress import Listener
from taskarith.tidy import Brief
from taskarith.vectors.codecs.error import Loss
from taskarith.vectors.codecs.write import Form, most_packed, packed_metadata
from taskarith.vectors.codecs.write import write_packed as write_blocks
from taskarith.vectors.difference import AdapterSource, PairSource, subtract
from taskarith.vectors.file import vector_metadata
from taskarith.vectors.vector import BaseRecord

__all__ = ["ExtractResult", "Extraction", "dense_file", "most_packed_bytes", "write_dense", "write_packed"]

_PLACEHOLDER = "0" * 32


@dataclass(frozen=True, repr=False)
class ExtractResult(Brief):
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

    def _brief(self) -> dict[str, object]:
        names = ("kind", "tensors", "elements", "moved", "inexact", "norm", "nbytes")
        return {"path": self.path, "base": str(self.base), **{name: getattr(self, name) for name in names}}

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"path": str(self.path), "base": self.base.to_json()}


@dataclass(frozen=True)
class Extraction:
    """What is extracted.

    :param base: The base.
    :param tuned: The fine-tune.
    :param before: The files of the base.
    :param source: Base and fine-tune, tensor by tensor.
    :param dtype: Of the deltas, as safetensors names it.
    :param states: Of the files that are read, which must not change meanwhile.
    :param target: Where the vector will lie.
    :param device: Where to calculate.
    """

    base: ResolvedModel
    tuned: ResolvedModel
    before: Checkpoint
    source: PairSource | AdapterSource
    dtype: str
    states: dict[str, list[int]]
    target: Path
    device: str

    @property
    def elements(self) -> int:
        """Of all deltas."""
        return sum(math.prod(shape) for shape in self.source.shapes.values())

    def fingerprint(self) -> str:
        """Return a fingerprint of all that decides the bytes of the vector."""
        source = self.source
        names = [self.base.recorded_name, self.base.revision, self.tuned.recorded_name]
        layout = [source.shapes, source.base_rows, source.ignored, source.tied, source.rest]
        parts = [self.dtype, *names, self.states, *layout, release()]
        return fingerprint_bytes(json.dumps(["extract", *parts, command_line()]).encode())


def write_dense(place: Workplace, job: Extraction, listener: Listener) -> ExtractResult:
    """Write the deltas as they are, each tensor once; an earlier run's are not written again.

    :raises MismatchError: A delta is not finite.
    """
    source, journal = job.source, place.journal
    layout, header, size = dense_file(job)
    entries = {name: TensorEntry(name, job.dtype, shape, place.path, header.offsets[name]) for name, _, shape in layout}
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
        work_through(tasks, do, listener, "extracting", sum(entry.elements for entry in tasks), _workers(job))
        _check_finite(journal.done)
        check_unchanged(job.states)
        header.write(files[place.path], layout, _metadata(job, journal.done))
    return _result(place, job, journal.done)


def dense_file(job: Extraction) -> tuple[list[tuple[str, str, tuple[int, ...]]], LateHeader, int]:
    """Return what a file of the deltas as they are holds, its header and its size."""
    shapes = job.source.shapes
    layout = [(name, job.dtype, shapes[name]) for name in job.before.tensors if name in shapes]
    header = LateHeader(layout, _metadata(job, None))
    return layout, header, header.nbytes + job.elements * ITEM_SIZES[job.dtype]


def most_packed_bytes(job: Extraction, form: Form) -> int:
    """Return the size that a file of the packed deltas has at most; raises what ``write_packed`` does of headers."""
    return most_packed(job.source, form, lambda _: _packed_metadata(job, form, None))


def _packed_metadata(job: Extraction, form: Form, found: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
    return _metadata(job, found) | packed_metadata(job.source, form, found)


def _workers(job: Extraction) -> Workers:
    return Workers(job.device, kernels=("difference",) if job.source.has_result else ("difference", "low_rank"))


def _fits(source: PairSource | AdapterSource, entry: TensorEntry, found: Mapping[str, Any]) -> bool:
    """Tell whether what a journal notes of a delta can have been noted by this extraction."""
    counts = [found.get("inexact"), found.get("moved")]
    sides = ("base", "finetuned") if source.has_result else ()
    return (
        are_fingerprints(found.get("output"), *(found.get(side) for side in sides))
        and source.rest.get(entry.name, {}).items() <= found.items()
        and all(type(count) is int and 0 <= count <= entry.elements for count in counts)
        and isinstance(squares := found.get("squares"), float)
        and not squares < 0
        and isinstance(found.get("finite"), bool)
        and found.keys() <= {"base", "finetuned", "output", "inexact", "moved", "squares", "finite"}
    )


def write_packed(place: Workplace, job: Extraction, form: Form, listener: Listener) -> ExtractResult:
    """Write the deltas packed.

    :raises MismatchError: A delta is not finite.
    """
    describe = partial(_packed_metadata, job, form)
    found = write_blocks(place.path, job.source, form, describe, listener, _workers(job))
    if form.is_lossy:
        _check_finite(found)
    check_unchanged(job.states)
    loss = Loss.of(found) if form.is_lossy else None
    return replace(_result(place, job, found), kind=form.kind, loss=loss)


def _result(place: Workplace, job: Extraction, found: Mapping[str, Mapping[str, Any]]) -> ExtractResult:
    inexact = _count(found, "inexact") if job.source.has_result else None
    norm = math.sqrt(math.fsum(one["squares"] for one in found.values()))
    record = BaseRecord.of(job.base, _prints(job, found, "base"))
    size = place.path.stat().st_size
    counts = len(found), job.elements, inexact, _count(found, "moved")
    return ExtractResult(place.path, record, *counts, norm, size, ignored=job.source.ignored)


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


def _prints(job: Extraction, found: Mapping[str, Mapping[str, Any]], side: str) -> dict[str, str]:
    """Return the fingerprint of every tensor of one side, in an order that is always the same."""
    whole = {**job.source.rest, **found}
    return {name: str(whole[name][side]) for name in sorted(whole) if side in whole[name]}


def _metadata(job: Extraction, found: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
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
        inexact=str(_count(found, "inexact") if found is not None else job.elements) if source.has_result else "",
        moved=str(_count(found, "moved") if found is not None else job.elements),
        **({"ignored_buffers": json.dumps(source.ignored)} if source.ignored else {}),
        **({"base_rows": json.dumps(source.base_rows)} if source.base_rows else {}),
        command=command_line(),
        versions=json.dumps(versions(), separators=(",", ":")),
    )
