"""What has to be on the disk before anything is built on it: a power failure takes what is only in memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["replace_file", "sync", "sync_tree"]


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file, which is never there in part, nor lost where an earlier one lay.

    :raises OSError: The disk does not take it; an earlier one is as it was.
    """
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_bytes(data)
        sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync_tree(path: Path) -> None:
    """Put a file on disk, or a folder with all that it holds; a pipe in it is not waited for."""
    for parent, _, names in os.walk(path, topdown=False):
        for one in (*(Path(parent) / name for name in names), Path(parent)):
            if one.exists() and not one.is_fifo():
                sync(one)
    if not path.is_dir():
        sync(path)


def sync(path: Path) -> None:
    """Put a file on disk, or the names in a folder."""
    with suppress(PermissionError):  # a folder cannot be opened on every system; its rename is still atomic
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
