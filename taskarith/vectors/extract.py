"""The verb `extract`: write fine-tuned minus base as a task vector file, piece by piece."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from taskarith.arithmetic.kernels import TORCH_DTYPES, linear_edit, round_to, same_bits, to_bytes
from taskarith.arithmetic.parallel import chunks, work_through
from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, build_header
from taskarith.checkpoints.provenance import command_line, read_provenance, versions
from taskarith.checkpoints.publish import check_target, publish_file
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.checkpoints.writer import new_files, write_at
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.adapter import ADAPTER_CONFIG, AdapterVector
from taskarith.vectors.dense import vector_metadata
from taskarith.vectors.form import BaseRecord, TensorPieces
from taskarith.vectors.open import recorded_base
from taskarith.vectors.pair import pair_checkpoints

__all__ = ["VECTOR_DTYPES", "ExtractResult", "extract"]

VECTOR_DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Names of dtypes as users and transformers write them, and as safetensors does."""

_CPU = torch.device("cpu")
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
    """

    path: Path
    base: BaseRecord
    tensors: int
    elements: int
    inexact: int | None
    moved: int
    norm: float
    nbytes: int


@dataclass
class _Tally:
    inexact: int = 0
    moved: int = 0
    squares: float = 0.0


def extract(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    listener: Listener = SILENT,
) -> ExtractResult:
    """Write the task vector ``finetuned - base`` to a safetensors file.

    :param base: Folder, hub id or GGUF; None where the fine-tune records its base.
    :param finetuned: A fine-tuned model, or a LoRA folder (its merged deltas are written).
    :param output: The file to write, usually ``*.safetensors``.
    :param dtype: Dtype of the deltas: float32, float64 (exact), bfloat16 or float16.
    :param overwrite: Replace an existing file.
    :param listener: Told about progress.
    :raises MismatchError: The two do not correspond, or a delta is not finite.
    :raises OutputError: The output exists or cannot be written.
    :raises UsageError: The dtype is unknown, or no base is given or recorded.
    """
    if dtype not in VECTOR_DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'", f"Choose one of {', '.join(VECTOR_DTYPES)}.")
    target = Path(output)
    check_target(target, overwrite)
    resolved = _find_base(base, finetuned, listener)
    tuned = resolve_model(finetuned, listener)
    before = open_checkpoint(resolved.path)
    is_adapter = (tuned.path / ADAPTER_CONFIG).exists()
    source = _AdapterSource(before, tuned.path) if is_adapter else _PairSource(before, open_checkpoint(tuned.path))
    with publish_file(target, overwrite) as partial:
        result = _write(partial, _Job(resolved, tuned, before, source, VECTOR_DTYPES[dtype]), listener)
    return replace(result, path=target)


def _find_base(base: str | None, finetuned: str, listener: Listener) -> ResolvedModel:
    if base is not None:
        return resolve_model(base, listener)
    record = recorded_base(finetuned, listener)
    if record is None:
        raise UsageError(
            f"{finetuned} does not record its base",
            f"Name it: taskarith extract BASE {finetuned} -o forget.safetensors",
        )
    return resolve_model(str(record), listener)


class _PairSource:
    """The deltas of a full fine-tune, with the check of what a coefficient of 1 gives back."""

    has_result = True

    def __init__(self, base: Checkpoint, finetuned: Checkpoint) -> None:
        pairing = pair_checkpoints(base, finetuned)
        self.shapes = {name: base.tensors[name].shape for name in pairing.floats}
        self.tied = {name: to for name, to in pairing.tied.items() if name in base.tensors}
        self._base, self._finetuned = base, finetuned
        self.reader = TensorReader()
        self.prints: dict[str, str] = {}
        self.finetuned_prints: dict[str, str] = {}
        for name in (*pairing.others, *pairing.tied):
            for side, prints in ((base, self.prints), (finetuned, self.finetuned_prints)):
                if name in side.tensors:
                    prints[name] = self.reader.fingerprint(side.tensors[name])

    def pieces(self, name: str, dtype: torch.dtype, tally: _Tally) -> Iterator[torch.Tensor]:
        base = TensorPieces(self._base.tensors[name], self.reader)
        finetuned = TensorPieces(self._finetuned.tensors[name], self.reader)
        for start, stop in chunks(self._base.tensors[name].elements):
            before, after = base.native(start, stop, _CPU), finetuned.native(start, stop, _CPU)
            delta = round_to(after.to(torch.float64) - before.to(torch.float64), dtype)
            again = linear_edit(before, [delta.to(torch.float64)], after.dtype)
            tally.inexact += stop - start - int(torch.count_nonzero(same_bits(again, after)))
            yield delta
        self.prints[name], self.finetuned_prints[name] = base.fingerprint(), finetuned.fingerprint()


class _AdapterSource:
    """The merged deltas of a LoRA folder's targets; all other tensors of the base stay as they are."""

    has_result = False

    def __init__(self, base: Checkpoint, path: Path) -> None:
        self._vector = AdapterVector(path, base, None)
        self._base = base
        self.shapes, self.tied = self._vector.shapes, dict(self._vector.tied)
        self.reader = TensorReader()
        self.prints = {name: self.reader.fingerprint(tensor) for name, tensor in base.tensors.items()}
        self.finetuned_prints: dict[str, str] = {}

    def pieces(self, name: str, dtype: torch.dtype, tally: _Tally) -> Iterator[torch.Tensor]:
        del tally
        delta = self._vector.open(name)
        for start, stop in chunks(self._base.tensors[name].elements):
            yield round_to(delta.read(start, stop, _CPU), dtype)
        self.finetuned_prints[name] = delta.fingerprint()


@dataclass(frozen=True)
class _Job:
    base: ResolvedModel
    tuned: ResolvedModel
    before: Checkpoint
    source: _PairSource | _AdapterSource
    dtype: str


def _write(path: Path, job: _Job, listener: Listener) -> ExtractResult:
    layout = [(name, job.dtype, job.source.shapes[name]) for name in job.before.tensors if name in job.source.shapes]
    elements = {name: job.before.tensors[name].elements for name, _, _ in layout}
    total, tallies = sum(elements.values()), {name: _Tally() for name in elements}
    reserve, offsets = build_header(layout, _metadata(job, None, total))
    size = len(reserve) + total * ITEM_SIZES[job.dtype]
    path.unlink(missing_ok=True)
    with job.source.reader, new_files({path: size}) as files:

        def do(name: str, stop: threading.Event) -> int:
            position = offsets[name]
            for piece in job.source.pieces(name, TORCH_DTYPES[job.dtype], tallies[name]):
                if stop.is_set():
                    break
                _count(piece, tallies[name])
                data = to_bytes(piece)
                write_at(files[path], data, position)
                position += len(data)
            return elements[name]

        work_through(sorted(elements, key=lambda name: -elements[name]), do, listener, "extracting", total)
        _check_finite(tallies)
        tally = _Tally(
            sum(one.inexact for one in tallies.values()),
            sum(one.moved for one in tallies.values()),
            math.fsum(one.squares for one in tallies.values()),
        )
        header, places = build_header(layout, _metadata(job, tally, total), length=len(reserve))
        if places != offsets:
            raise AssertionError("the header outgrew its reserve")
        write_at(files[path], header, 0)
    inexact = tally.inexact if job.source.has_result else None
    record = _record(job.base, job.source.prints)
    return ExtractResult(path, record, len(layout), total, inexact, tally.moved, math.sqrt(tally.squares), size)


def _count(delta: torch.Tensor, tally: _Tally) -> None:
    tally.squares += float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
    tally.moved += int(torch.count_nonzero(delta))


def _check_finite(tallies: Mapping[str, _Tally]) -> None:
    broken = [name for name, tally in tallies.items() if not math.isfinite(tally.squares)]
    if broken:
        raise MismatchError(
            f"{len(broken)} deltas are not finite: {name_some(broken)}",
            "A model has infinities or NaN there, or the delta overflows this dtype: check, or use --dtype float32.",
        )


def _metadata(job: _Job, tally: _Tally | None, total: int) -> dict[str, str]:
    """Describe the vector; without a tally, with placeholders at least as long as what will stand there."""
    source = job.source
    names = {name: (source.prints if tally else {}).get(name, _PLACEHOLDER) for name in job.before.tensors}
    finetuned = {
        "name": job.tuned.recorded_name,
        "revision": job.tuned.revision,
        "fingerprint": combine_fingerprints(source.finetuned_prints) if tally else _PLACEHOLDER,
        "training": read_provenance(job.tuned.path),
    }
    return vector_metadata(
        _record(job.base, names),
        finetuned,
        job.dtype,
        source.tied,
        inexact=str(tally.inexact if tally else total) if source.has_result else "",
        moved=str(tally.moved if tally else total),
        command=command_line(),
        versions=json.dumps(versions(), separators=(",", ":")),
    )


def _record(resolved: ResolvedModel, prints: Mapping[str, str]) -> BaseRecord:
    return BaseRecord(resolved.recorded_name, resolved.revision, combine_fingerprints(dict(prints)), dict(prints))
