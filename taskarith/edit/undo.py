"""A way back: a compressed patch from the output of an edit to its input, and its application, bit for bit.

The patch is a safetensors file beside the output. It holds, compressed with Zstandard, the headers of the input's
weight files, the other files that the edit carried, and for every changed tensor the difference between the input's
bits and the output's (converted to the input's dtype where that changed), taken as integers: close numbers have close
bits, so most of it is small, and its bytes are grouped by significance to show that to the compressor.

Its header says what else the input had: ``taken`` are large files, by their SHA-256, which the output must still have;
``left`` are names of files that the edit did not carry, as weights in other formats.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.parallel import chunks, work_through
from taskarith.checkpoints.checkpoint import INDEX_NAME, UNDO_NAME, Checkpoint, open_checkpoint
from taskarith.checkpoints.digests import file_digest, folder_files
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, build_header, parse_header
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.sidecars import check_sidecars, copy_sidecars
from taskarith.checkpoints.targets import check_space
from taskarith.checkpoints.writer import PrintedWriter, growing_file, sized_files, write_at
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.edit.undo_patch import FILE, FORMAT, OpenPatch, open_patch, unpack
from taskarith.edit.undo_rerun import is_restored
from taskarith.errors import CheckpointError, MismatchError, name_some
from taskarith.progress import SILENT, Listener

__all__ = ["UndoResult", "undo", "write_undo"]

_PIECE = 1 << 20
"""Elements that are compressed together."""

_LARGE = 1 << 25
"""Bytes of a file from which on it is not kept in the patch, but taken from the output."""

_OWN = {INDEX_NAME, PROVENANCE_NAME, "config.json", ".gitattributes"}
"""Files that the output has of its own, or does not have: they are always kept in the patch."""

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class UndoResult:
    """What was restored.

    :param path: The folder.
    :param tensors: Tensors of the model.
    :param nbytes: Bytes of its weight files.
    :param remarks: Files of the input that could not be restored, and files of the edited folder that were left there.
    """

    path: Path
    tensors: int
    nbytes: int
    remarks: tuple[str, ...] = ()


def write_undo(plan: EditPlan, folder: Path, listener: Listener = SILENT) -> int:
    """Write the patch back to the input into a finished output folder; return its size in bytes.

    :param plan: The edit.
    :param folder: Its output, complete.
    :param listener: Told about progress.
    """
    output = {
        tensor.source.name: TensorEntry(
            tensor.source.name, tensor.dtype, tensor.source.shape, folder / shard.name, tensor.offset
        )
        for shard in plan.shards
        for tensor in shard.tensors
    }
    changed = [tensor for tensor in plan.tensors if tensor.action != "copied"]
    names = [name for tensor in changed for name in _piece_names(tensor.source)]
    small, metadata = _other_files(plan.base)
    # sizes are known only at the end: the header gets all the room that it can need, and is written last
    reserve, _ = build_header([(name, "U8", (10**15,)) for name in (*small, *names)], metadata)
    with TensorReader() as reader, growing_file(folder / UNDO_NAME) as descriptor:
        patch = _Patch(descriptor, len(reserve))
        for name, (path, size) in small.items():
            with path.open("rb") as source:
                patch.append(name, source.read(size))

        def do(tensor: TensorPlan, calculator: Calculator, stop: threading.Event) -> int:
            del calculator
            for name, (start, end) in zip(_piece_names(tensor.source), _spans(tensor.source), strict=True):
                if not stop.is_set():
                    before = _integers(reader, tensor.source, start, end)
                    after = _prediction(reader, output[tensor.source.name], tensor.source.dtype, start, end)
                    patch.append(name, _planes(before - after))
            return tensor.source.nbytes

        tasks = sorted(changed, key=lambda tensor: -tensor.source.nbytes)
        work_through(tasks, do, listener, "writing the way back", sum(tensor.source.nbytes for tensor in tasks))
        return patch.end(metadata)


def undo(
    edited: str | Path, output_dir: str | Path, *, overwrite: bool = False, listener: Listener = SILENT
) -> UndoResult:
    """Restore the input of an edit from its output and the patch beside it.

    :param edited: A folder that ``apply`` wrote with ``keep_undo``.
    :param output_dir: The folder to write.
    :param overwrite: Replace an existing output of taskarith. A folder that holds just what would be written, as an
        earlier undo leaves it, stays as it is.
    :param listener: Told about progress.
    :raises CheckpointError: There is no patch, or it is broken.
    :raises OutputError: The output exists and may not be replaced, or cannot be written.
    :raises MismatchError: What was restored is not what the edit had read: the folder was changed since.
    """
    place, target = Path(edited), Path(output_dir)
    if not overwrite:
        check_target(target, overwrite, is_folder=True, inputs=[place])
    patch = open_patch(place)
    patch.check()
    record, entries = patch.record, patch.entries
    files = {name: patch.read(name) for name in patch.names if name.endswith(".safetensors")}
    before = [(name, parse_header(data, place / name)) for name, data in files.items()]
    after = open_checkpoint(place)
    names = after.sidecars if patch.taken is None else [name for name in patch.taken if (place / name).exists()]
    check_sidecars(place, names)
    _check_fit(place, record, [tensor for _, header in before for tensor in header.tensors], after)
    sizes = {name: len(files[name]) + sum(t.nbytes for t in header.tensors) for name, header in before}
    count = sum(len(header.tensors) for _, header in before)
    result = UndoResult(target, count, sum(sizes.values()), tuple(_remarks(patch, after)))
    if overwrite and is_restored(patch, target, listener):
        return replace(result, remarks=(*result.remarks, f"{target} is that already, and nothing was written"))
    check_target(target, overwrite, is_folder=True, inputs=[place])
    check_space(target, result.nbytes)
    with publish_folder(target, overwrite, inputs=[place]) as folder:
        _restore_files(patch, after, folder)
        tensors = [(folder / name, tensor) for name, header in before for tensor in header.tensors]
        wrong: list[str] = []
        with (
            TensorReader() as reader,
            sized_files({folder / name: size for name, size in sizes.items()}) as descriptors,
        ):
            for name, _ in before:
                write_at(descriptors[folder / name], files[name], 0)

            def do(task: tuple[Path, TensorEntry], calculator: Calculator, stop: threading.Event) -> int:
                del calculator
                path, tensor = task
                writer = PrintedWriter(descriptors[path], tensor.dtype, tensor.shape, tensor.offset)
                for data in _restored(tensor, after.tensors[tensor.name], entries, reader, stop):
                    writer.append(data)
                if not stop.is_set() and writer.fingerprint() != record["tensors"][tensor.name]["base"]:
                    wrong.append(tensor.name)
                return tensor.nbytes

            tensors.sort(key=lambda task: -task[1].nbytes)
            work_through(tensors, do, listener, "restoring", sum(tensor.nbytes for _, tensor in tensors))
        if wrong:
            raise MismatchError(
                f"{len(wrong)} tensors restored from {place} are not what was edited: {name_some(sorted(wrong))}",
                "The folder was changed after the edit; taskarith verify shows where.",
            )
    return result


def _restore_files(patch: OpenPatch, after: Checkpoint, folder: Path) -> None:
    """Write all files of the input but its weights.

    :raises MismatchError: A large file of the edited folder is not what it was.
    """
    taken = [str(path) for path in after.sidecars] if patch.taken is None else list(patch.taken)
    for name in taken:
        source = patch.place / name
        if patch.taken is not None and (not source.is_file() or file_digest(source) != patch.taken[name]):
            raise MismatchError(
                f"{source} is {'not what it was' if source.exists() else 'gone'}, and it is too large for the patch",
                f"Restore that file, as {PROVENANCE_NAME} describes it; then undo.",
            )
        copy_sidecars(patch.place, [name], folder)
    for name in patch.names:
        if not name.endswith(".safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(patch.read(name))


def _remarks(patch: OpenPatch, after: Checkpoint) -> list[str]:
    """Say which files of the input are not restored, and which of the edited folder stay there."""
    if patch.taken is None:
        names = [str(path) for path in after.sidecars if str(path) not in patch.names]
        taken = f"{name_some(names)} are taken from {patch.place} as they are now"
        return [f"an earlier release wrote the patch: {taken}, and whether the model had other files is not known"]
    recorded = patch.record.get("files")
    now = [name for name in folder_files(patch.place) if name not in {UNDO_NAME, PROVENANCE_NAME}]
    added = [name for name in now if isinstance(recorded, dict) and name not in recorded]
    return [
        *([f"not restored, since the edit did not carry them: {name_some(patch.left)}"] if patch.left else []),
        *([f"left in {patch.place}, since the edit did not write them: {name_some(added)}"] if added else []),
    ]


def _check_fit(place: Path, record: dict[str, Any], before: list[TensorEntry], after: Checkpoint) -> None:
    """Refuse a folder whose tensors, record and patch are not of one edit."""
    notes = record.get("tensors")
    known = {name for name, note in notes.items() if _has_base(note)} if isinstance(notes, dict) else set()
    wrong = [
        tensor.name
        for tensor in before
        if tensor.name not in after.tensors
        or after.tensors[tensor.name].shape != tensor.shape
        or tensor.name not in known
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of the patch in {place} are not in its weights and its record: {name_some(wrong)}",
            "The folder was changed after the edit; restore it from where it came.",
        )


def _has_base(note: object) -> bool:
    return isinstance(note, dict) and isinstance(note.get("base"), str)


class _Patch:
    """A safetensors file of byte strings, appended by several threads; its header comes last."""

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor, self._start, self._position = descriptor, start, start
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def append(self, name: str, data: bytes) -> None:
        packed = zstandard.ZstdCompressor(level=3).compress(data)
        with self._lock:
            place, self._position = self._position, self._position + len(packed)
            self._sizes[name] = len(packed)
        write_at(self._descriptor, packed, place)

    def end(self, metadata: Mapping[str, str]) -> int:
        layout = [(name, "U8", (size,)) for name, size in self._sizes.items()]
        header, _ = build_header(layout, metadata, length=self._start)
        write_at(self._descriptor, header, 0)
        return self._position


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


def _restored(
    before: TensorEntry,
    after: TensorEntry,
    entries: dict[str, TensorEntry],
    reader: TensorReader,
    stop: threading.Event,
) -> Iterator[bytes]:
    for name, (start, end) in zip(_piece_names(before), _spans(before), strict=True):
        if stop.is_set():
            return
        prediction = _prediction(reader, after, before.dtype, start, end)
        if name in entries:
            data = unpack(reader, entries[name], prediction.nbytes)
            if len(data) != prediction.nbytes:
                raise CheckpointError(f"{entries[name].path} is broken at {name}", "Restore it from where it came.")
            yield (prediction + _unplanes(data, prediction.dtype)).tobytes()
        else:
            yield prediction.tobytes()


def _spans(tensor: TensorEntry) -> list[tuple[int, int]]:
    return list(chunks(tensor.elements, _PIECE))


def _piece_names(tensor: TensorEntry) -> list[str]:
    return [f"{start}:{tensor.name}" for start, _ in _spans(tensor)]


def _integers(reader: TensorReader, tensor: TensorEntry, start: int, end: int) -> np.ndarray:
    size = ITEM_SIZES[tensor.dtype]
    return np.frombuffer(reader.read(tensor, start * size, end * size), _UNSIGNED[size])


def _prediction(reader: TensorReader, after: TensorEntry, dtype: str, start: int, end: int) -> np.ndarray:
    """Return what the output says about the bits of the input."""
    if after.dtype == dtype:
        return _integers(reader, after, start, end)
    size = ITEM_SIZES[after.dtype]
    values = decode(reader.read(after, start * size, end * size), after.dtype)
    return np.frombuffer(encode(values, dtype), _UNSIGNED[ITEM_SIZES[dtype]])


def _planes(difference: np.ndarray) -> bytes:
    """Fold the sign into the lowest bit, and put all first bytes together, then all second bytes, and so on."""
    bits = difference.dtype.itemsize * 8
    folded = (difference << 1) ^ (0 - (difference >> (bits - 1)))
    return folded.astype(difference.dtype).view(np.uint8).reshape(-1, difference.dtype.itemsize).T.tobytes()


def _unplanes(data: bytes, dtype: np.dtype) -> np.ndarray:
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    folded = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    return ((folded >> 1) ^ (0 - (folded & 1))).astype(dtype)
