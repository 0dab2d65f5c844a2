"""Write the patch from the output of an edit to its input; see ``undo``."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import zstandard

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import work_through
from taskarith.cards.licence import CARD_NAME
from taskarith.checkpoints.checkpoint import INDEX_NAME, UNDO_NAME, Checkpoint
from taskarith.checkpoints.digests import file_digest, folder_files
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.writer import AppendedTensors, growing_file
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.edit.undo_patch import FILE, FORMAT
from taskarith.edit.undo_pieces import integers, piece_names, planes, prediction, spans
from taskarith.progress import SILENT, Listener

__all__ = ["write_undo"]

_LARGE = 1 << 25
"""Bytes of a file from which on it is not kept in the patch, but taken from the output."""

_OWN = {INDEX_NAME, PROVENANCE_NAME, CARD_NAME, "config.json", ".gitattributes"}
"""Files that the output has of its own, or does not have: they are always kept in the patch."""


def write_undo(plan: EditPlan, folder: Path, listener: Listener = SILENT) -> int:
    """Write the patch back to the input into a finished output folder; return its size in bytes.

    :param plan: The edit.
    :param folder: Its output, complete.
    :param listener: Receives progress updates.
    """
    output = {
        tensor.source.name: TensorEntry(
            tensor.source.name, tensor.dtype, tensor.source.shape, folder / shard.name, tensor.offset
        )
        for shard in plan.shards
        for tensor in shard.tensors
    }
    changed = [tensor for tensor in plan.tensors if tensor.action != "copied"]
    names = [name for tensor in changed for name in piece_names(tensor.source)]
    small, metadata = _other_files(plan.base)
    with TensorReader() as reader, growing_file(folder / UNDO_NAME) as descriptor:
        patch = AppendedTensors(descriptor, [*small, *names], metadata)
        for name, (path, size) in small.items():
            with path.open("rb") as source:
                patch.append(name, _compressed(source.read(size)))

        def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
            del calculator
            for name, (start, end) in zip(piece_names(tensor.source), spans(tensor.source), strict=True):
                if not stop.is_set():
                    before = integers(reader, tensor.source, start, end)
                    after = prediction(reader, output[tensor.source.name], tensor.source.dtype, start, end)
                    patch.append(name, _compressed(planes(before - after)))
            return tensor.source.nbytes

        tasks = sorted(changed, key=lambda tensor: -tensor.source.nbytes)
        work_through(tasks, do, listener, "writing the undo patch", sum(tensor.source.nbytes for tensor in tasks))
        return patch.end(metadata)


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def _other_files(base: Checkpoint) -> tuple[dict[str, tuple[Path, int]], dict[str, str]]:
    """Return what a patch keeps beside differences, as files and numbers of bytes, and what its header says.

    These are the headers of the weight files, and all that is not weights and not large.
    """
    kept = {}
    for shard in base.shards:
        path = base.path / shard.name
        first = min((tensor.offset for tensor in shard.tensors), default=path.stat().st_size)
        kept[shard.name] = (path, first)
    names = [path.as_posix() for path in base.sidecars]
    names += [name for name in _OWN - {*names} if (base.path / name).is_file()]
    sizes = {name: (base.path / name).stat().st_size for name in sorted(names)}
    large = [name for name, size in sizes.items() if size > _LARGE and name not in _OWN]
    kept |= {name: (base.path / name, size) for name, size in sizes.items() if name not in large}
    left = [name for name in folder_files(base.path) if name not in {*kept, *large}]
    metadata = {
        "format": FORMAT,
        "taken": json.dumps({name: file_digest(base.path / name) for name in large}),
        "left": json.dumps(left),
    }
    return {FILE + name: found for name, found in kept.items()}, metadata
