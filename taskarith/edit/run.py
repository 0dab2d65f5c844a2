"""Carry out a plan: read, calculate, write at known offsets, fingerprint everything on the way."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from taskarith.arithmetic.kernels import TORCH_DTYPES, linear_edit, to_bytes
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, chunks, work_through
from taskarith.checkpoints.checkpoint import INDEX_NAME, WEIGHTS_NAME
from taskarith.checkpoints.reader import TensorReader, hasher
from taskarith.checkpoints.writer import new_files, write_at
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import MismatchError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.form import DeltaReader, TensorPieces

__all__ = ["RunResult", "edited_pieces", "run_plan"]


@dataclass
class RunResult:
    """Fingerprints by tensor: of the base as read, of the output as written, of each operand's deltas as read."""

    base: dict[str, str] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    operands: list[dict[str, str]] = field(default_factory=list)


def run_plan(
    plan: EditPlan,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    chunk: int = CHUNK_ELEMENTS,
    listener: Listener = SILENT,
) -> RunResult:
    """Write all shards, the index and the sidecar files of an edit into a folder.

    :param plan: What to do.
    :param folder: An empty folder.
    :param device: Torch device that calculates.
    :param workers: Tensors in work at a time; by default one a core. It changes no bit.
    :param chunk: Elements calculated at a time; it changes no bit.
    :param listener: Told the bytes written.
    :raises MismatchError: The result has values that are not finite.
    """
    result = RunResult(operands=[{} for _ in plan.operands])
    sizes = {folder / shard.name: shard.nbytes for shard in plan.shards}
    with TensorReader() as reader, new_files(sizes) as files:
        work = _Work(plan, reader, torch.device(device), chunk, result)
        for shard in plan.shards:
            write_at(files[folder / shard.name], shard.header, 0)
        tasks = [(files[folder / shard.name], tensor) for shard in plan.shards for tensor in shard.tensors]
        tasks.sort(key=lambda task: -task[1].nbytes)
        work_through(tasks, work.do, listener, "applying", plan.write_bytes, workers)
    if work.broken:
        raise MismatchError(
            f"{len(work.broken)} tensors of the result are not finite: {name_some(sorted(work.broken))}",
            "An input has infinities or NaN, or the output dtype overflows: check the inputs, or use --dtype float32.",
        )
    copy_sidecars(plan, folder)
    return result


def edited_pieces(
    plan: EditPlan, tensor: TensorPlan, reader: TensorReader, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[int, torch.Tensor]]:
    """Calculate an edited tensor without writing it: pairs of first element and values, in order."""
    pieces = TensorPieces(tensor.source, reader)
    deltas = _open_deltas(plan, tensor)
    for start, stop in chunks(tensor.source.elements):
        yield start, _calculate(pieces, deltas, (start, stop), device, dtype)


def copy_sidecars(plan: EditPlan, folder: Path) -> None:
    """Copy every file that travels with the model; the index and the dtype in the configuration follow the plan."""
    for relative in plan.base.sidecars:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.base.path / relative, target)
    if plan.dtype is not None:
        name = str(TORCH_DTYPES[plan.dtype]).removeprefix("torch.")
        config = {key: value for key, value in plan.base.config.items() if key != "torch_dtype"} | {"dtype": name}
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if len(plan.shards) > 1 or plan.shards[0].name != WEIGHTS_NAME:
        weight_map = {tensor.source.name: shard.name for shard in plan.shards for tensor in shard.tensors}
        index = {"metadata": {"total_size": sum(t.nbytes for t in plan.tensors)}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Work:
    """What all workers share; each writes its own keys of ``result``."""

    plan: EditPlan
    reader: TensorReader
    device: torch.device
    chunk: int
    result: RunResult
    broken: list[str] = field(default_factory=list)

    def do(self, task: tuple[int, TensorPlan], stop: threading.Event) -> int:
        """Calculate and write one tensor; return its bytes."""
        descriptor, tensor = task
        written = hasher(tensor.dtype, tensor.source.shape)
        position = tensor.offset
        for piece in self._edited(tensor) if tensor.action != "copied" else self.reader.pieces(tensor.source):
            if stop.is_set():
                return 0
            write_at(descriptor, piece, position)
            written.update(piece)
            position += len(piece)
        self.result.output[tensor.source.name] = written.hexdigest()
        if tensor.action == "copied":
            self.result.base[tensor.source.name] = written.hexdigest()
        return tensor.nbytes

    def _edited(self, tensor: TensorPlan) -> Iterator[memoryview]:
        name, dtype = tensor.source.name, TORCH_DTYPES[tensor.dtype]
        pieces, deltas = TensorPieces(tensor.source, self.reader), _open_deltas(self.plan, tensor)
        is_finite = True
        for span in chunks(tensor.source.elements, self.chunk):
            values = _calculate(pieces, deltas, span, self.device, dtype)
            is_finite = is_finite and bool(values.isfinite().all())
            yield to_bytes(values)
        if not is_finite:
            self.broken.append(name)
        self.result.base[name] = pieces.fingerprint()
        for term, (_, delta) in zip(tensor.terms, deltas, strict=True):
            self.result.operands[term.operand][term.delta] = delta.fingerprint()


def _open_deltas(plan: EditPlan, tensor: TensorPlan) -> list[tuple[float, DeltaReader]]:
    return [(term.coefficient, plan.operands[term.operand].vector.open(term.delta)) for term in tensor.terms]


def _calculate(
    base: TensorPieces,
    deltas: Sequence[tuple[float, DeltaReader]],
    span: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    terms = [coefficient * delta.read(*span, device) for coefficient, delta in deltas]
    return linear_edit(base.native(*span, device), terms, dtype)
