"""The files that travel with a model: which of them can, and how they are copied."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from taskarith.errors import CheckpointError

__all__ = ["check_sidecars", "copy_sidecars"]


def check_sidecars(folder: Path, names: Iterable[str | Path]) -> None:
    """Refuse files that could not be copied, or that lie elsewhere, before anything is written.

    A link may lead to another file of its folder, or from a snapshot of the hub's cache to the cache's blobs: any other
    could put a file of the user's that has nothing to do with the model into the output.

    :param folder: A model folder.
    :param names: Of its files, relative to it.
    :raises CheckpointError: One of them is a link that leads out or nowhere, is a pipe, socket or device, or cannot be
        read.
    """
    for name in names:
        path = folder / name
        try:
            status = path.stat()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
            why = "is a link that leads to no file" if path.is_symlink() else f"cannot be read ({error})"
            raise _refused(path, why) from error
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "is not a regular file")
        if _leads_out(folder, path):
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


def _leads_out(folder: Path, path: Path) -> bool:
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    blobs = home.parent.with_name("blobs") if home.parent.name == "snapshots" else None
    return not real.is_relative_to(home) and real.parent != blobs


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}, and cannot travel with the model", "Remove it, or put a copy of the file in its place."
    )
