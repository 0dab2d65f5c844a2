"""Put a finished output into a folder that cannot be exchanged for another: entry by entry, and to the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from taskarith.checkpoints.ownership import entry_names, foreign_entries
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.rooms import MOVES_NAME, work_names
from taskarith.errors import OutputError, name_some

__all__ = ["finish_moves", "move_into"]


def move_into(output: Path, target: Path, room: Path) -> None:
    """Move what a finished output holds into a folder, in which ``room`` lies, and what that held into the room.

    From the moment that the list of moves is written, the next run goes on where this one was stopped. The record
    comes last: a folder without it is not complete.
    """
    old = sorted(entry_names(target) - work_names(target))
    new = sorted(entry_names(output), key=lambda name: (name == PROVENANCE_NAME, name))
    listed = room / "new"
    with listed.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"old": old, "new": new}))
        file.flush()
        os.fsync(file.fileno())
    listed.rename(room / MOVES_NAME)
    finish_moves(target, room)


def finish_moves(target: Path, room: Path) -> None:
    """Carry out the moves that a room lists, those that have been done left out; without a list there is nothing to do.

    :raises OSError: A move failed; the next run tries it again.
    """
    moves = _read_moves(target, room)
    if moves is None:
        return
    (room / "old").mkdir(exist_ok=True)
    old, new = moves
    for name in old:
        if os.path.lexists(target / name) and not os.path.lexists(room / "old" / name):
            (target / name).rename(room / "old" / name)
    for name in new:
        if os.path.lexists(room / "output" / name):
            if os.path.lexists(target / name):
                raise OutputError(
                    f"{target / name} was put there during this run, and is kept", "Move it elsewhere, and run again."
                )
            (room / "output" / name).rename(target / name)
    if foreign := foreign_entries(room / "old") if old else []:
        raise OutputError(
            f"{room / 'old'} holds what no record says that taskarith wrote, and is kept: {name_some(foreign)}",
            "Move it elsewhere; then remove that folder.",
        )
    (room / MOVES_NAME).unlink()


def _read_moves(target: Path, room: Path) -> tuple[list[str], list[str]] | None:
    """Return the names that are to go out and in.

    :raises OutputError: The list is not one that ``move_into`` wrote.
    """
    path = room / MOVES_NAME
    if not os.path.lexists(path):
        return None
    try:
        moves: Any = json.loads(path.read_bytes()) if path.is_file() and not path.is_symlink() else None
        old, new = moves["old"], moves["new"]
        apart = {"", "..", *work_names(target)}
        is_plain = all(Path(name).name == name not in apart for name in (*old, *new))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        is_plain = False
    if not is_plain:
        raise OutputError(f"{path} does not list the files of an output", f"Move {room} away.")
    return old, new
