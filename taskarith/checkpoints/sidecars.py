"""The files that travel with a model: which of them can, and how they are copied."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from taskarith.checkpoints.header import read_header
from taskarith.errors import CheckpointError

__all__ = ["check_sidecars", "copy_sidecars", "leads_out"]


def check_sidecars(folder: Path, names: Iterable[str | Path]) -> None:
    """Refuse files that could not be copied, or that lie elsewhere, before anything is written.

    A link may lead to another file of its folder, from a snapshot of the hub's cache to the cache's blobs, or to where
    the model's weights are links to as well: any other could put a file of the user's that has nothing to do with the
    model into the output.

    :param folder: A model folder.
    :param names: Of its files, relative to it.
    :raises CheckpointError: One of them is a link that leads out or nowhere, is a pipe, socket or device, or cannot be
        read.
    """
    stores: set[Path] | None = None
    for name in names:
        path = folder / name
        try:
            status = path.stat()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
            why = "is a link that leads to no file" if path.is_symlink() else f"cannot be read ({error})"
            raise _refused(path, why) from error
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "is not a regular file")
        if leads_out(folder, path):
            stores = _stores(folder) if stores is None else stores
            if Path(os.path.realpath(path)).parent not in stores:
                raise _refused(path, f"is a link out of its folder, to {os.path.realpath(path)}")
        if not os.access(path, os.R_OK):
            raise _refused(path, "may not be read")


def copy_sidecars(folder: Path, names: Iterable[str | Path], output: Path) -> None:
    """Copy files of a model folder to the same places in an output.

    :raises CheckpointError: As ``check_sidecars`` does.
    """
    for name in names:
        check_sidecars(folder, [name])
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target)


def leads_out(folder: Path, path: Path) -> bool:
    """Tell whether a path of a folder is a link to elsewhere; the hub cache's links to its blobs are not."""
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    blobs = home.parent.with_name("blobs") if home.parent.name == "snapshots" else None
    return not real.is_relative_to(home) and real.parent != blobs


def _stores(folder: Path) -> set[Path]:
    """Return the folders that weights of a model are links into: it is spread over them as a whole.

    The weights must be sound: an output that holds a file of such a folder tells only of a folder that holds models.
    """
    found: set[Path] = set()
    for path in folder.glob("*.safetensors"):
        with suppress(CheckpointError):
            if path.is_symlink() and read_header(path).tensors:
                found.add(Path(os.path.realpath(path)).parent)
    return found


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}, and cannot travel with the model", "Remove it, or put a copy of the file in its place."
    )
