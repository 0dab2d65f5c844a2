"""What stopped runs leave in the room of an output: what of it is kept, and what may be gone on with."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from taskarith.checkpoints.journal import count_pieces, is_own_file, remove
from taskarith.checkpoints.lock import LOCK_NAME, lock_folder, uninterrupted, unlock_folder
from taskarith.errors import OutputError, ReadError, TaskarithError

__all__ = ["Hold", "clean_output", "has_work", "held", "is_verdict", "other_journals"]


@dataclass
class Hold:
    """What becomes of a folder for work when its holder leaves it.

    :param keep: Whether what lies in it stays; a folder that has nothing but its lock never does.
    :param notes: What is said where Ctrl-C comes in while it is left.
    """

    keep: bool = True
    notes: list[str] = field(default_factory=list)


@contextmanager
def held(folder: Path, target: Path) -> Generator[Hold]:
    """Make and lock a folder for work on an output, and leave it as its holder says at the end.

    Ctrl-C waits while the folder is made, and while it is left: otherwise one would stay that nobody wanted to keep.

    :param folder: Where work on an output is done.
    :param target: The output.
    :raises OutputError: Another process has it; see ``lock_folder``.
    """
    hold, lock = Hold(), None
    try:
        with uninterrupted():
            lock = lock_folder(folder, target)
        yield hold
    finally:
        if lock is not None:
            with uninterrupted(hold.notes):
                if not hold.keep:
                    _empty(folder)
                unlock_folder(folder, lock)


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


def _empty(folder: Path) -> None:
    """Remove all that can be removed but the lock, by which the folder is known as ours."""
    paths: list[Path] = []
    with suppress(OSError):
        paths += [path for path in folder.iterdir() if path.name != LOCK_NAME]
    for path in paths:
        with suppress(OSError):
            remove(path)


def has_work(room: Path) -> bool:
    """Tell whether the journals of a room name anything beside their plan."""
    return any(map(count_pieces, [room / "journal.jsonl", *other_journals(room)]))


def other_journals(room: Path) -> list[Path]:
    """Return the journals of all processes but the first."""
    return sorted(room.glob("journal-*.jsonl"))
