"""What stopped runs leave in the room of an output: what of it is kept, and what may be gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from taskarith.checkpoints.journal import count_pieces, is_own_file, remove
from taskarith.checkpoints.lock import LOCK_NAME
from taskarith.errors import OutputError, ReadError, TaskarithError

__all__ = ["clean_output", "has_work", "is_verdict", "other_journals", "remove_room"]


def clean_output(room: Path, parts: Collection[str] | None, goes_on: bool) -> Path:
    """Return the output's place in the room, without anything that does not belong to work in progress.

    What may be gone on with is a file that has no other name; a link, and a file that also lies elsewhere, are not.

    :param room: The room.
    :param parts: The files of the output that may be gone on with; None where it is one file.
    """
    output = room / "output"
    kept = {room / "lock", room / "journal.jsonl"} | ({output} if goes_on else set())
    if parts is not None and output.is_dir() and not output.is_symlink():
        kept |= {output / name for name in parts} if goes_on else set()
    elif parts is not None or not is_own_file(output):
        kept.discard(output)
    for path in [*room.iterdir(), *(output.iterdir() if parts is not None and output in kept else ())]:
        if path not in kept or (path != output and not is_own_file(path)):
            remove(path)
    if parts is not None:
        output.mkdir(exist_ok=True)
    return output


def is_verdict(error: BaseException) -> bool:
    """Tell whether a failure would come again: it is about what was read, not about disks, memory or processes."""
    return isinstance(error, TaskarithError) and not isinstance(error, OutputError | ReadError)


def remove_room(room: Path) -> None:
    """Remove a room; the lock, by which it is known as ours, goes last."""
    with suppress(OSError):
        for path in room.iterdir():
            if path.name != LOCK_NAME:
                remove(path)
    shutil.rmtree(room, ignore_errors=True)


def has_work(room: Path) -> bool:
    """Tell whether the journals of a room name anything beside their plan."""
    return any(map(count_pieces, [room / "journal.jsonl", *other_journals(room)]))


def other_journals(room: Path) -> list[Path]:
    """Return the journals of all processes but the first."""
    return sorted(room.glob("journal-*.jsonl"))
