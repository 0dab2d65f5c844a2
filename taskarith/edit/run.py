"""Carry out a plan: read, calculate, write at known offsets, fingerprint everything on the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from taskarith.arithmetic.kernels import TORCH_DTYPES, linear_edit, to_bytes
from taskarith.checkpoints.checkpoint import INDEX_NAME
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, hasher
from taskarith.edit.plan import EditPlan, ShardPlan, TensorPlan
from taskarith.errors import MismatchError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.form import DeltaReader, TensorPieces

__all__ = ["CHUNK_ELEMENTS", "RunResult", "edited_pieces", "run_plan"]

CHUNK_ELEMENTS = 1 << 17
"""Elements calculated at a time: a few float64 temporaries of this size stay in a core's cache."""


@dataclass
class RunResult:
    """Fingerprints by tensor: of the base as read, of the output as written, of each operand's deltas as read."""

    base: dict[str, str] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    operands: list[dict[str, str]] = field(default_factory=list)


class _NotFiniteError(Exception):
    """A tensor came out with infinities or NaN."""


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
    :param workers: Tensors in work at a time; by default one a core on the CPU and two on another device.
    :param chunk: Elements calculated at a time; it changes no bit.
    :param listener: Told the bytes written.
    :raises MismatchError: The result has values that are not finite.
    """
    place = torch.device(device)
    workers = workers or (len(os.sched_getaffinity(0)) if place.type == "cpu" else 2)
    result = RunResult(operands=[{} for _ in plan.operands])
    with TensorReader() as reader, _output_files(plan.shards, folder) as files:
        work = _Work(plan, reader, place, chunk, result)
        tasks = [(files[shard.name], tensor) for shard in plan.shards for tensor in shard.tensors]
        _run_all(work, tasks, workers, listener)
    copy_sidecars(plan, folder)
    return result


def edited_pieces(
    plan: EditPlan, tensor: TensorPlan, reader: TensorReader, device: torch.device, dtype: torch.dtype, chunk: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Calculate an edited tensor without writing it: pairs of first element and values, in order."""
    pieces = TensorPieces(tensor.source, reader)
    deltas = _open_deltas(plan, tensor)
    for start, stop in _ranges(tensor.source.elements, chunk):
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
    if len(plan.shards) > 1 or plan.shards[0].name != "model.safetensors":
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
    stop: threading.Event = field(default_factory=threading.Event)

    def do(self, descriptor: int, tensor: TensorPlan) -> int:
        """Calculate and write one tensor; return its bytes."""
        name = tensor.source.name
        written = hasher(tensor.dtype, tensor.source.shape)
        if tensor.action == "copied":
            for start, piece in self._copied(tensor.source):
                _write_at(descriptor, piece, tensor.offset + start)
                written.update(piece)
            self.result.base[name] = self.result.output[name] = written.hexdigest()
            return tensor.nbytes
        pieces, deltas = TensorPieces(tensor.source, self.reader), _open_deltas(self.plan, tensor)
        dtype, size = TORCH_DTYPES[tensor.dtype], ITEM_SIZES[tensor.dtype]
        for start, stop in _ranges(tensor.source.elements, self.chunk):
            if self.stop.is_set():
                return 0
            values = _calculate(pieces, deltas, (start, stop), self.device, dtype)
            if not values.isfinite().all():
                raise _NotFiniteError(name)
            data = to_bytes(values)
            _write_at(descriptor, data, tensor.offset + start * size)
            written.update(data)
        self.result.base[name], self.result.output[name] = pieces.fingerprint(), written.hexdigest()
        for term, (_, delta) in zip(tensor.terms, deltas, strict=True):
            self.result.operands[term.operand][term.delta] = delta.fingerprint()
        return tensor.nbytes

    def _copied(self, tensor: TensorEntry) -> Iterator[tuple[int, bytearray]]:
        position = 0
        for piece in self.reader.pieces(tensor):
            if self.stop.is_set():
                return
            yield position, piece
            position += len(piece)


def _run_all(work: _Work, tasks: Sequence[tuple[int, TensorPlan]], workers: int, listener: Listener) -> None:
    total, done, broken = work.plan.write_bytes, 0, []
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work.do, *task) for task in sorted(tasks, key=lambda task: -task[1].nbytes)]
        try:
            for future in as_completed(futures):
                try:
                    done += future.result()
                except _NotFiniteError as error:
                    broken.append(str(error))
                listener.progress("applying", done, total)
        except BaseException:
            work.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if broken:
        raise MismatchError(
            f"{len(broken)} tensors of the result are not finite: {name_some(sorted(broken))}",
            "An input has infinities or NaN, or the output dtype overflows: check the inputs, or use --dtype float32.",
        )


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


def _ranges(elements: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(0, elements, chunk):
        yield start, min(start + chunk, elements)


@contextmanager
def _output_files(shards: Sequence[ShardPlan], folder: Path) -> Generator[dict[str, int], None, None]:
    files: dict[str, int] = {}
    try:
        for shard in shards:
            files[shard.name] = os.open(folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(files[shard.name], 0, shard.nbytes)  # no space is found out now, not later
            _write_at(files[shard.name], shard.header, 0)
        yield files
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _write_at(descriptor: int, data: bytes | bytearray | memoryview, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
