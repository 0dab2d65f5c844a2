"""Outputs, before anything is calculated: what may be written where, and what of it may be replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from taskarith.checkpoints.leftovers import has_work, held
from taskarith.checkpoints.ownership import entry_names, foreign_entries
from taskarith.checkpoints.rooms import (
    MOVES_NAME,
    NAME_BYTES,
    WORK,
    folders_around,
    has_to_stay,
    identity,
    is_mounted,
    room_of,
    settle,
    work_folder,
    work_names,
)
from taskarith.errors import OutputError, name_some

__all__ = [
    "check_apart",
    "check_room",
    "check_space",
    "check_target",
    "is_occupied",
]

_ROOM = re.compile(r"lock|journal(-\d+)?\.jsonl|old-journal\.jsonl|finished\.json|output|old|new|factors|moves\.json")
"""What lies in the room of an output that is being built."""

_PATH_BYTES = 4000
"""What systems take of a path is 4096 or less; the names of what is built come to it."""


def check_target(
    target: Path, overwrite: bool, *, is_folder: bool | None = None, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuse an output that cannot be written, or would destroy what is not to be destroyed.

    Nothing is written; what a run left that was killed when its output was in place already is removed. The same is
    checked again when the output is begun, and before it is put in its place.

    :param target: The output: a file, or a folder.
    :param overwrite: Whether an output of taskarith that is there may be replaced.
    :param is_folder: Which of the two it will be; None where that is not known yet.
    :param inputs: Files and folders that the command reads; names of what does not exist here are passed over.
    :raises OutputError: The output is, holds or lies in an input; it exists and may not be replaced, or holds what
        taskarith did not write; or its place cannot be written.
    """
    place = settle(target)
    _check_name(place)
    check_apart(place, inputs)
    if is_occupied(place) and not overwrite:
        _clear_room(room_of(place), target)
        raise OutputError(f"{target} already exists", "Name another output, or allow it with --overwrite.")
    _check_kind(target, place, is_folder)
    _check_foreign(target, place)
    _check_rights(target, place)
    check_room(room_of(place))


def _clear_room(room: Path, target: Path) -> None:
    """Remove a room in which there is nothing to go on with."""
    if not room.is_dir() or has_work(room) or any((room / name).exists() for name in ("journal.jsonl", MOVES_NAME)):
        return
    with suppress(OSError, OutputError):  # it is not ours, or another run has it
        check_room(room)
        with held(room, target) as hold:
            hold.keep = False


def check_room(room: Path) -> None:
    """Refuse to build in a place that an earlier run has not left.

    :raises OutputError: It is a link, a file, or a folder of somebody else's.
    """
    if not os.path.lexists(room):
        return
    hint = "Move it away, or name another output."
    if not stat.S_ISDIR(room.lstat().st_mode):
        raise OutputError(f"{room} is in the way: it is not a folder that an interrupted run left", hint)
    names = sorted(entry_names(room))
    strange = [name for name in names if not _ROOM.fullmatch(name)]
    if strange or (names and not stat.S_ISREG(_mode(room / "lock"))):
        named = name_some(strange or names, 3)
        raise OutputError(f"{room} is in the way: it holds what no interrupted run left ({named})", hint)
    old = room / "old"  # an earlier output, which is brought back or removed; whoever carries out moves looks himself
    if os.path.lexists(old) and not (room / MOVES_NAME).exists() and (foreign := foreign_entries(old)):
        raise OutputError(f"{old} is in the way: no record says that taskarith wrote {name_some(foreign, 3)}", hint)


def check_space(target: Path, nbytes: int) -> None:
    """Refuse an output for which the disk does not have enough space now.

    :param target: The output.
    :param nbytes: What will be written, at least; what is replaced stays until then.
    :raises OutputError: There is less, what a stopped run has left included, which is used or removed.
    """
    place = _nearest(settle(target))
    free = shutil.disk_usage(place).free + sum(_taken(work_folder(target, what)) for what in ("partial", "training"))
    if free < nbytes:
        raise OutputError(
            f"no space left for {target}: {place} has {_size(free)}, and {_size(nbytes)} will be written",
            "Free some space or name an output on another disk.",
        )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.{2 if nbytes >= 1e8 else 6}f} GB"


def _taken(folder: Path) -> int:
    """Return the bytes of the disk that a folder takes."""
    found = 0
    for parent, _, names in os.walk(folder):
        with suppress(OSError):
            found += sum((Path(parent) / name).lstat().st_blocks for name in names)
    return found * 512


def _check_name(place: Path) -> None:
    for what, name, most in (("name", place.name, NAME_BYTES), ("path", str(place), _PATH_BYTES)):
        size = len(os.fsencode(name))
        if size > most:
            raise OutputError(
                f"the {what} {name[:40]}... has {size} bytes, and a {what} may have {most}",
                f"Give the output a shorter {what}.",
            )


def check_apart(target: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output that is, holds or lies in something that is read; see ``check_target``."""
    place = settle(target)
    own, around = identity(place), folders_around(place)
    rooms = {identity(room) for what in WORK if (room := work_folder(place, what)).is_dir() and not room.is_symlink()}
    for given in dict.fromkeys(filter(None, map(str, inputs))):
        for path in _read_with(Path(given)):
            inner, outer = folders_around(path), identity(path)
            if outer == own:
                how = f"{target} is read by this command and cannot be its output"
            elif own in inner:
                how = f"the output {target} holds {path}, which this command reads"
            elif outer in around:
                how = f"the output {target} lies in {path}, which this command reads"
            elif rooms & {outer, *inner}:
                how = f"{path} is read by this command, and lies where the output {target} is built"
            else:
                continue
            raise OutputError(how, "Name another output, outside of everything that is read.")


def _read_with(path: Path) -> Iterator[Path]:
    """Yield an input with all that is read through it: what the files of a folder link to, the base of an adapter."""
    try:
        if not path.exists() and not path.is_absolute():
            return
        yield path
        if path.is_dir():
            yield from (entry.resolve() for entry in path.iterdir() if entry.is_symlink() and entry.exists())
            config = path / "adapter_config.json"
            base = json.loads(config.read_bytes())["base_model_name_or_path"] if config.is_file() else ""
            yield from [Path(base)] if base and Path(base).exists() else []
    except (OSError, ValueError, TypeError, KeyError, RuntimeError):
        return  # whoever reads it says what is wrong with it


def is_occupied(place: Path) -> bool:
    """Whether something lies where an output would; work in progress, and an empty folder, do not count."""
    if not place.is_dir() or place.is_symlink():
        return os.path.lexists(place)
    is_complete = (room_of(place) / MOVES_NAME).exists()
    return not is_complete and not entry_names(place) <= work_names(place)


def _check_foreign(target: Path, place: Path) -> None:
    """Refuse to replace what is not ours; an output that is put in its place first is looked at after that."""
    if not is_occupied(place):
        return
    foreign = [name for name in foreign_entries(place) if name.partition("/")[0] not in work_names(place)]
    if foreign == ["."]:
        raise OutputError(
            f"nothing in {target} says that taskarith wrote it, and it is kept",
            "Name another output, or move it elsewhere.",
        )
    if foreign:
        raise OutputError(
            f"{target} holds what no record says that taskarith wrote, and is kept: {name_some(foreign)}",
            "Name another output, or move these elsewhere first.",
        )


def _check_kind(target: Path, place: Path, is_folder: bool | None) -> None:
    if is_folder and (place.is_file() or place.is_symlink()):
        raise OutputError(f"{target} is not a folder", "Name another output folder.")
    if is_folder is False and place.is_dir():
        raise OutputError(f"{target} is a folder", "Name a file, as in -o forget.safetensors.")
    if is_folder is False and place.exists() and is_mounted(place):
        raise OutputError(f"{target} is mounted as a file and cannot be replaced", "Mount the folder that it is in.")


def _check_rights(target: Path, place: Path) -> None:
    stays = has_to_stay(place)
    folder, why = _nearest(place if stays else place.parent), ""
    if not folder.is_dir():
        why = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = f"{folder} may not be written"
    elif not stays and os.path.lexists(place) and not _may_be_replaced(place):
        why = f"{place} may not be replaced"
    if why:
        raise OutputError(f"cannot write {target}: {why}", "Name an output that you may write.")


def _may_be_replaced(place: Path) -> bool:
    """Tell whether an output can be moved away: of a folder that all may write, such as /tmp, each only their own."""
    status, folder = place.lstat(), place.absolute().parent.stat()
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in {0, status.st_uid, folder.st_uid}:
        return False
    return not stat.S_ISDIR(status.st_mode) or os.access(place, os.W_OK | os.X_OK)


def _nearest(place: Path) -> Path:
    """Return a path, or the nearest one around it that exists."""
    return next((one for one in (place, *place.absolute().parents) if os.path.lexists(one)), Path(place.anchor or "."))


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0
