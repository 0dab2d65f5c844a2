"""Publish or nothing: outputs are built beside their place and moved there when they are complete and on disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from taskarith.errors import OutputError

__all__ = ["check_target", "publish_file", "publish_folder"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse an output that exists (a file, or a folder that holds something) unless it may be overwritten.

    :raises OutputError: It exists, or its parent is no folder.
    """
    if target.name in {"", ".."}:
        raise OutputError(f"'{target}' cannot be an output", "Name a folder or file of its own, as in -o edited.")
    occupied = any(target.iterdir()) if target.is_dir() else os.path.lexists(target)
    if occupied and not overwrite:
        raise OutputError(f"{target} already exists", "Name another output, or allow it with --overwrite.")


@contextmanager
def publish_folder(target: Path, overwrite: bool = False) -> Generator[Path, None, None]:
    """Give an empty temporary sibling folder to write into, and rename it to ``target`` at the end.

    On any exception, Ctrl-C included, the temporary folder is removed and ``target`` is as it was.

    :raises OutputError: ``target`` is occupied, or the disk is full or cannot be written.
    """
    with _output_errors(target):
        check_target(target, overwrite)
        if target.is_file() or target.is_symlink():
            raise OutputError(f"{target} is no folder", "Name another output folder.")
        partial = _beside(target)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            _sync_tree(partial)
            _replace_folder(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def publish_file(target: Path, overwrite: bool = False) -> Generator[Path, None, None]:
    """Give the path of a temporary sibling file to write, and rename it to ``target`` at the end.

    :raises OutputError: ``target`` is occupied, or the disk is full or cannot be written.
    """
    with _output_errors(target):
        check_target(target, overwrite)
        if target.is_dir():
            raise OutputError(f"{target} is a folder", "Name a file, as in -o forget.safetensors.")
        partial = _beside(target)
        try:
            yield partial
            _sync(partial)
            partial.replace(target)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def _beside(target: Path) -> Path:
    """Return the temporary place of an output, in a folder that exists."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make folder {target.parent}: {error.strerror}", "Name an output that you may write."
        ) from error
    return target.with_name(f".{target.name}.partial")


def _replace_folder(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    with suppress(PermissionError):  # a folder cannot be opened on every system; its rename is still atomic
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _output_errors(target: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"no space left for {target} ({error.strerror})",
                "Free some space or name an output on another disk.",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise OutputError(
                f"cannot write {target}: {error.strerror}", "Name an output that you may write."
            ) from error
        raise
