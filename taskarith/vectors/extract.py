"""The verb `extract`: write fine-tuned minus base as a task vector file, piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from taskarith.arithmetic.kernels import TORCH_DTYPES, linear_edit, round_to, same_bits, to_bytes
from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.header import TensorEntry, build_header
from taskarith.checkpoints.provenance import command_line, read_provenance, versions
from taskarith.checkpoints.publish import check_target, publish_file
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.errors import MismatchError, UsageError
from taskarith.progress import SILENT, Listener
from taskarith.vectors.adapter import ADAPTER_CONFIG, AdapterVector
from taskarith.vectors.dense import vector_metadata
from taskarith.vectors.form import BaseRecord, TensorPieces
from taskarith.vectors.open import recorded_base
from taskarith.vectors.pair import pair_checkpoints

__all__ = ["VECTOR_DTYPES", "ExtractResult", "extract"]

VECTOR_DTYPES = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Names of dtypes as users and transformers write them, and as safetensors does."""

_CHUNK = 1 << 18
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

    def pieces(self, name: str, dtype: str, tally: _Tally) -> Iterator[torch.Tensor]:
        base = TensorPieces(self._base.tensors[name], self.reader)
        finetuned = TensorPieces(self._finetuned.tensors[name], self.reader)
        for start, stop in _ranges(self._base.tensors[name]):
            before, after = base.native(start, stop, _CPU), finetuned.native(start, stop, _CPU)
            delta = round_to(after.to(torch.float64) - before.to(torch.float64), TORCH_DTYPES[dtype])
            again = linear_edit(before, [delta.to(torch.float64)], after.dtype)
            tally.inexact += int((~same_bits(again, after)).sum())
            yield delta
        self.prints[name] = base.fingerprint()
        self.finetuned_prints[name] = finetuned.fingerprint()


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

    def pieces(self, name: str, dtype: str, tally: _Tally) -> Iterator[torch.Tensor]:
        del tally
        delta = self._vector.open(name)
        for start, stop in _ranges(self._base.tensors[name]):
            yield round_to(delta.read(start, stop, _CPU), TORCH_DTYPES[dtype])
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
    tally, total, done = _Tally(), sum(job.before.tensors[name].elements for name, _, _ in layout), 0
    reserve, offsets = build_header(layout, _metadata(job, None, total))
    with path.open("wb") as file, job.source.reader:
        file.write(reserve)
        for name, _, _ in layout:
            for piece in job.source.pieces(name, job.dtype, tally):
                _count(name, piece, tally)
                file.write(to_bytes(piece))
                done += piece.numel()
                listener.progress("extracting", done, total)
        header, places = build_header(layout, _metadata(job, tally, total), length=len(reserve))
        if places != offsets:
            raise AssertionError("the header outgrew its reserve")
        file.seek(0)
        file.write(header)
        size = file.seek(0, os.SEEK_END)
    inexact = tally.inexact if job.source.has_result else None
    record = _record(job.base, job.source.prints)
    return ExtractResult(path, record, len(layout), total, inexact, tally.moved, tally.squares**0.5, size)


def _count(name: str, delta: torch.Tensor, tally: _Tally) -> None:
    square = float(delta.to(torch.float64).square().sum())
    if not delta.isfinite().all():
        raise MismatchError(
            f"the delta of {name} has values that are not finite",
            "A model has infinities or NaN there, or the delta overflows this dtype: check, or use --dtype float32.",
        )
    tally.squares += square
    tally.moved += int(torch.count_nonzero(delta))


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


def _ranges(tensor: TensorEntry) -> Iterator[tuple[int, int]]:
    for start in range(0, tensor.elements, _CHUNK):
        yield start, min(start + _CHUNK, tensor.elements)
