"""Whether a folder is already what an undo patch restores: a restored model has no record that says who wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taskarith.checkpoints.digests import file_digest, folder_files
from taskarith.checkpoints.header import TensorEntry, parse_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.undo_patch import OpenPatch
from taskarith.progress import Listener

__all__ = ["is_restored"]


def is_restored(patch: OpenPatch, target: Path, listener: Listener) -> bool:
    """Tell whether a folder holds the files that a patch restores, bit for bit, and no others.

    :param patch: It says what all files are, unless an earlier release wrote it.
    :param target: Any path.
    :param listener: Receives progress updates.
    """
    if patch.taken is None or not target.is_dir() or target.is_symlink():
        return False
    names = {*patch.names, *patch.taken}
    if {*folder_files(target)} != names or not all((target / name).is_file() for name in names):
        return False
    tensors: list[TensorEntry] = []
    for name in patch.names:
        data, path = patch.read(name), target / name
        inside = parse_header(data, path).tensors if name.endswith(".safetensors") else ()
        with path.open("rb") as file:
            if file.read(len(data)) != data or path.stat().st_size != len(data) + sum(one.nbytes for one in inside):
                return False
        tensors += inside
    if any(file_digest(target / name) != digest for name, digest in patch.taken.items()):
        return False
    return _hold(tensors, patch, listener)


def _hold(tensors: Sequence[TensorEntry], patch: OpenPatch, listener: Listener) -> bool:
    """Compare tensors with the fingerprints of those that were edited."""
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    with TensorReader() as reader:
        for tensor in tensors:
            if reader.fingerprint(tensor) != patch.record["tensors"][tensor.name]["base"]:
                return False
            done += tensor.nbytes
            listener.progress("comparing with what is there", done, total)
    return True
