"""Rooms: where an output is built, beside its place or in it, and what they are called."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from taskarith.errors import OutputError

__all__ = [
    "MOVES_NAME",
    "NAME_BYTES",
    "WORK",
    "folders_around",
    "has_to_stay",
    "hidden_sibling",
    "identity",
    "is_mounted",
    "room_of",
    "settle",
    "short_name",
    "target_mode",
    "work_folder",
    "work_names",
]

MOVES_NAME = "moves.json"
"""In a room: what is to be moved where, of an output that is complete and is put into a folder that stays."""

WORK = ("partial", "training", "old")
"""What there may be of an output under way, by the last part of its name."""

NAME_BYTES = 255
"""What file systems take of a name, encrypted ones apart."""


def settle(target: Path) -> Path:
    """Return an output with a name of its own, where it was given as ``.`` or the like.

    :raises OutputError: It is the root of the file system.
    """
    place = Path(os.path.realpath(target)) if target.name in {"", ".."} else target
    if not place.name:
        raise OutputError(f"'{target}' cannot be an output", "Name a folder or file of its own, as in -o edited.")
    return place


def room_of(target: Path) -> Path:
    """Return the folder in which an output is built: ``.NAME.partial``, see ``work_folder``."""
    return work_folder(target, "partial")


def work_folder(target: Path, what: str) -> Path:
    """Return the folder ``.NAME.WHAT`` for work on an output: beside it, or in it where it has to stay.

    A mount point (a volume of a container), the current folder, and a folder in a place that may not be written cannot
    be exchanged for another one.
    """
    place = settle(target)
    inside = place / place.name
    stays = has_to_stay(place) or any(hidden_sibling(inside, one).exists() for one in WORK)
    return hidden_sibling(inside if stays else place, what)


def work_names(target: Path) -> set[str]:
    """Return the names of what lies in a folder that has to stay while there is work on it; none elsewhere."""
    return {path.name for what in WORK if (path := work_folder(target, what)).parent == target}


def hidden_sibling(target: Path, what: str) -> Path:
    """Return ``.NAME.WHAT`` beside an output, with a digest instead of a part of the name where that is too long."""
    return target.with_name(f".{short_name(target.name, NAME_BYTES - len(what) - 2)}.{what}")


def short_name(name: str, limit: int = NAME_BYTES) -> str:
    """Return a name of at most so many bytes: what is left out in the middle is replaced by its digest."""
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    digest, half = hashlib.sha256(data).hexdigest()[:12], (limit - 14) // 2
    first, last = (part.decode(errors="ignore") for part in (data[:half], data[-half:]))
    return f"{first}-{digest}-{last}"


def target_mode(room: Path) -> int:
    """Return the rights that new files get in a room, by the umask or by the access list of its folder."""
    probe = room / "new"
    probe.unlink(missing_ok=True)
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def folders_around(path: Path) -> set[tuple[int, int] | str]:
    """Return the identities of all folders around a path, those of what it links to and those of the link."""
    places = (Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path)))
    folders = {folder for place in places for folder in place.parents}
    return {identity(folder, os.fspath(folder)) for folder in folders}


def identity(path: Path, real: str = "") -> tuple[int, int] | str:
    """Return what tells files and folders apart, whatever they are called; of what is not there, its ``real`` path."""
    try:
        status = path.stat()
    except (OSError, ValueError, RuntimeError):
        return real or os.path.realpath(path)
    return status.st_dev, status.st_ino


def has_to_stay(target: Path) -> bool:
    """Tell whether a folder cannot be exchanged for another one; see ``work_folder``."""
    if not target.is_dir() or target.is_symlink():
        return False
    return (
        _holds_current_folder(target)
        or not os.access(target.absolute().parent, os.W_OK | os.X_OK)
        or is_mounted(target)
    )


def _holds_current_folder(target: Path) -> bool:
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return False
    return identity(target) in {identity(here), *folders_around(here)}


def is_mounted(path: Path) -> bool:
    """Whether a file system is mounted here, one that lies in the same file system included."""
    if os.path.ismount(path):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    places = {re.sub(rb"\\(\d{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4]) for line in lines}
    return os.fsencode(os.path.realpath(path)) in places
