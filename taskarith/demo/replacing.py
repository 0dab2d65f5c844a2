"""Replacement of an earlier demo's folder, which is kept until the new demo is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from taskarith.checkpoints.ownership import entry_names, foreign_entries
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.rooms import work_folder, work_names
from taskarith.errors import OutputError

__all__ = ["LAST_FILE", "bring_back", "replacing"]

LAST_FILE = "results.json"
"""The file that a demo writes last."""

_MOVED = "moved"
"""Marks that all files of the earlier demo have been moved, so that the folder holds the new one."""


@contextmanager
def replacing(folder: Path) -> Generator[None]:
    """Move an earlier demo aside; remove it at the end, or restore it on an exception.

    On an exception nothing of the new demo is kept, unless its folder contains other files.
    """
    old, names = work_folder(folder, "old"), _names(folder)
    if not names:
        was_there = folder.exists()
        try:
            yield
        except BaseException:
            _clear(folder, was_there)
            raise
        return
    old.mkdir()
    for name in sorted(names, key=lambda name: (name != PROVENANCE_NAME, name)):
        (folder / name).rename(old / name)
    (old / _MOVED).touch()
    try:
        yield
    except BaseException:
        _restore(folder, old)
        raise
    _remove(old)


def bring_back(folder: Path) -> None:
    """Clean up after a killed demo: restore the earlier one, unless the new one was complete.

    :raises OutputError: The folder of the earlier demo holds something else.
    """
    old = work_folder(folder, "old")
    if not os.path.lexists(old):
        return
    if old.is_symlink() or set(foreign_entries(old)) - {_MOVED}:
        raise OutputError(f"{old} is not an earlier demo", "Move it away, or choose another output.")
    if (old / _MOVED).exists() and (folder / LAST_FILE).exists():
        _remove(old)
    else:
        _restore(folder, old)


def _clear(folder: Path, keep: bool) -> None:
    """Remove an unfinished demo, its record last, so that the rest stays recognisable as a demo."""
    names = _names(folder)
    if names and foreign_entries(folder):
        return
    for name in sorted(names, key=lambda name: (name == PROVENANCE_NAME, name)):
        _remove_entry(folder / name)
    if not keep and folder.is_dir() and not entry_names(folder):
        folder.rmdir()


def _restore(folder: Path, old: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (old / _MOVED).exists():
        for name in _names(folder):
            _remove_entry(folder / name)
        (old / _MOVED).unlink()
    for name in sorted(entry_names(old), key=lambda name: (name == PROVENANCE_NAME, name)):
        (old / name).rename(folder / name)
    old.rmdir()


def _remove(old: Path) -> None:
    """Remove the earlier demo, its marks last, so that the rest stays recognisable."""
    for name in sorted(entry_names(old), key=lambda name: (name == _MOVED, name == PROVENANCE_NAME, name)):
        _remove_entry(old / name)
    old.rmdir()


def _remove_entry(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _names(folder: Path) -> set[str]:
    return entry_names(folder) - work_names(folder) if folder.is_dir() else set()
