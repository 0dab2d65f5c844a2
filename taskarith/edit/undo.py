"""A way back: a compressed patch from the output of an edit to its input, and its application, bit for bit.

The patch is a safetensors file beside the output. It holds, compressed with Zstandard, the headers of the input's
weight files, the other files that the edit carried, and for every changed tensor the difference between the input's
bits and the output's (converted to the input's dtype where that changed), taken as integers: close numbers have close
bits, so most of it is small, and its bytes are grouped by significance to show that to the compressor.

Its header says what else the input had: ``taken`` are large files, by their SHA-256, which the output must still have;
``left`` are names of files that the edit did not carry, as weights in other formats.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import work_through
from taskarith.checkpoints.checkpoint import UNDO_NAME, Checkpoint, open_checkpoint
from taskarith.checkpoints.digests import file_digest, folder_files
from taskarith.checkpoints.header import TensorEntry, parse_header
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.sidecars import check_sidecars, copy_sidecars
from taskarith.checkpoints.targets import check_space
from taskarith.checkpoints.writer import HashingWriter, sized_files, write_at
from taskarith.edit.undo_patch import OpenPatch, open_patch, unpack
from taskarith.edit.undo_pieces import piece_names, prediction, spans, unplanes
from taskarith.edit.undo_rerun import is_restored
from taskarith.errors import CheckpointError, MismatchError, name_some
from taskarith.progress import SILENT, Listener

__all__ = ["UndoResult", "undo"]


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


def undo(
    edited: str | Path, output_dir: str | Path, *, overwrite: bool = False, listener: Listener = SILENT
) -> UndoResult:
    """Restore the input of an edit from its output and the patch beside it.

    :param edited: A folder that ``apply`` wrote with ``keep_undo``.
    :param output_dir: The folder to write.
    :param overwrite: Replace an existing output of taskarith. A folder that holds just what would be written, as an
        earlier undo leaves it, stays as it is.
    :param listener: Receives progress updates.
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
                writer = HashingWriter(descriptors[path], tensor.dtype, tensor.shape, tensor.offset)
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
            "The folder was changed after the edit; get it again from where it came from.",
        )


def _has_base(note: object) -> bool:
    return isinstance(note, dict) and isinstance(note.get("base"), str)


def _restored(
    before: TensorEntry,
    after: TensorEntry,
    entries: dict[str, TensorEntry],
    reader: TensorReader,
    stop: threading.Event,
) -> Iterator[bytes]:
    for name, (start, end) in zip(piece_names(before), spans(before), strict=True):
        if stop.is_set():
            return
        predicted = prediction(reader, after, before.dtype, start, end)
        if name in entries:
            data = unpack(reader, entries[name], predicted.nbytes)
            if len(data) != predicted.nbytes:
                raise CheckpointError(
                    f"{entries[name].path} is broken at {name}", "Get it again from where it came from."
                )
            yield (predicted + unplanes(data, predicted.dtype)).tobytes()
        else:
            yield predicted.tobytes()
