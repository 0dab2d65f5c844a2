"""Publish or nothing: outputs are built beside their place and moved there when they are complete and on disk."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.durable import sync, sync_tree
from taskarith.checkpoints.inside import finish_moves, move_into
from taskarith.checkpoints.journal import Journal
from taskarith.checkpoints.leftovers import clean_output, has_work, held, is_verdict, other_journals
from taskarith.checkpoints.lock import uninterrupted
from taskarith.checkpoints.rooms import MOVES_NAME, room_of, settle, target_mode
from taskarith.checkpoints.targets import check_room, check_target
from taskarith.checkpoints.team import ALONE, Team
from taskarith.errors import OutputError

__all__ = ["KEPT", "Workplace", "check_target", "publish", "publish_file", "publish_folder"]

KEPT = "What is finished is kept: the same command goes on where this one stopped."
"""Noted on failures after which that is so."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Workplace:
    """Where an output is built.

    :param path: The output under its temporary name: a folder that exists, or a file that need not.
    :param journal: What an interrupted run of the same plan has finished, and where to record more.
    :param team: The processes that build it.
    """

    path: Path
    journal: Journal
    team: Team = ALONE

    def begin(self, prepare: Callable[[], set[str]]) -> set[str]:
        """Let the first process prepare the output, and tell all of them which pieces are finished already."""
        path = self.path.with_name("finished.json")
        if self.team.is_first:
            done = prepare()
            path.write_text(json.dumps(sorted(done)), encoding="utf-8")
            self.team.wait()
            return done
        self.team.wait()
        return set(json.loads(path.read_text(encoding="utf-8")))

    def gather(self) -> None:
        """Wait until all processes have done their share; the first one takes over their journals."""
        self.journal.sync()
        self.team.wait()
        if self.team.is_first:
            for path in other_journals(self.path.parent):
                self.journal.adopt(path)


@contextmanager
def publish(
    target: Path,
    overwrite: bool = False,
    *,
    is_folder: bool,
    plan: str = "",
    run: Mapping[str, Any] | None = None,
    parts: Collection[str] = (),
    team: Team = ALONE,
    inputs: Iterable[str | Path] = (),
) -> Generator[Workplace, None, None]:
    """Give a place beside ``target`` to build it in, locked against other runs, and move it there at the end.

    The place is the folder ``.NAME.partial``; it lies in a target that cannot be moved, see ``room_of``. On an
    exception it is removed and ``target`` is as it was. With a ``plan``, a run that was killed, interrupted or stopped
    by a failure that says nothing about the data leaves it, and the next run of the same plan goes on in it.

    :param target: The output.
    :param overwrite: Replace an output of taskarith that is there.
    :param is_folder: Whether the output is a folder or a file.
    :param plan: Fingerprint of all that decides the output; empty if it cannot go on after an interruption.
    :param run: What that is the fingerprint of, where work takes so long that it is kept whatever ends the run.
    :param parts: The files of an output folder that the next run goes on with; what else lies there is removed.
    :param team: The processes that build it together; only the first one locks, cleans and moves.
    :param inputs: What is read; see ``check_target``, which is asked now and once more at the end.
    :raises OutputError: ``target`` may not be replaced or is being written, or the disk is full or cannot be written.
    """
    with _output_errors(target):
        check_target(target, overwrite, is_folder=is_folder, inputs=(inputs := list(inputs)))
        target = settle(target)
        room = _room(target)
        if not team.is_first:
            team.wait()  # until the first process has made the room
            with closing(Journal(room / f"journal-{team.rank}.jsonl", plan)) as journal:
                yield Workplace(room / "output", journal, team)
            return
        check_room(room)
        with held(room, target) as hold:
            begun = False
            try:
                _recover(room, target)
                check_target(target, overwrite, is_folder=is_folder)
                with closing(Journal(room / "journal.jsonl", plan, run)) as journal:
                    for path in other_journals(room):
                        journal.adopt(path)
                    output = clean_output(room, parts if is_folder else None, journal.goes_on)
                    team.wait()
                    begun = True
                    yield Workplace(output, journal, team)
                    _follow_umask(output, target_mode(room))
                    sync_tree(output)
                    check_target(target, overwrite, is_folder=is_folder, inputs=inputs)  # something may have come
                    with uninterrupted(hold.notes):
                        _put_in_place(output, target, room, journal)
                        hold.keep = (room / MOVES_NAME).exists()
                        hold.notes.append(f"{target} is complete, and in its place.")
                        for folder in {target.parent, room.parent}:
                            sync(folder)
            except BaseException as error:
                with uninterrupted(hold.notes):
                    is_early = not begun or run is not None or isinstance(error, OSError)  # such as a full disk
                    is_over = hold.notes or (run is None and is_verdict(error))
                    goes_on = plan != "" and not is_over and (has_work(room) or not is_early)
                    hold.keep = goes_on or (room / MOVES_NAME).exists()
                    if goes_on:
                        error.add_note(KEPT)
                        hold.notes.append(KEPT)
                raise


def publish_folder(
    target: Path, overwrite: bool = False, *, inputs: Iterable[str | Path] = ()
) -> AbstractContextManager[Path]:
    """Give an empty temporary folder to write into, and move it to ``target`` at the end; see ``publish``."""
    return _path_of(publish(target, overwrite, is_folder=True, inputs=inputs))


def publish_file(
    target: Path, overwrite: bool = False, *, inputs: Iterable[str | Path] = ()
) -> AbstractContextManager[Path]:
    """Give the path of a temporary file to write, and move it to ``target`` at the end; see ``publish``."""
    return _path_of(publish(target, overwrite, is_folder=False, inputs=inputs))


@contextmanager
def _path_of(published: AbstractContextManager[Workplace]) -> Generator[Path, None, None]:
    with published as place:
        yield place.path


def _room(target: Path) -> Path:
    """Return the temporary place of an output, in a folder that exists."""
    room = room_of(target)
    try:
        room.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make folder {room.parent}: {error.strerror}", "Name an output that you may write."
        ) from error
    return room


def _put_in_place(output: Path, target: Path, room: Path, journal: Journal) -> None:
    journal.retire()  # from here on nothing in the room may be taken for work in progress
    try:
        _move(output, target, room)
    except OSError:
        if not (room / MOVES_NAME).exists():  # all of it is still here
            journal.bring_back()
        raise


def _move(output: Path, target: Path, room: Path) -> None:
    """Put the output in its place: in one step where the system can exchange two names."""
    if room.parent == target:
        move_into(output, target, room)
    elif output.is_dir() and target.exists():
        if not _exchange(output, target):
            target.rename(room / "old")  # a kill between these two is mended by the next run
            try:
                output.rename(target)
            finally:
                _recover(room, target)  # if that failed: the room, and all that is in it, goes next
    else:
        output.replace(target)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names atomically (Linux: renameat2 with RENAME_EXCHANGE); return whether that was possible."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), 2) == 0


def _recover(room: Path, target: Path) -> None:
    """Bring back an output whose replacement was killed between its two renames, or complete one inside of it."""
    if room.parent == target:
        finish_moves(target, room)
        return
    if (room / "old").exists() and not os.path.lexists(target):
        (room / "old").rename(target)


def _follow_umask(output: Path, mode: int) -> None:
    """Give all files the rights of new ones; libraries that write under temporary names make them the user's alone."""
    files = [Path(parent) / name for parent, _, names in os.walk(output) for name in names]
    for path in files or [output]:
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != mode:
            with suppress(PermissionError):  # some network disks and memory cards have no rights to change
                path.chmod(mode)


def _told_by_the_system(error: Exception) -> OSError | None:
    """Return what the system refused, also where safetensors has put that into words: ``... (os error 28)``."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    if number is None:
        return None
    found = OSError(int(number[1]), os.strerror(int(number[1])))
    found.__notes__ = getattr(error, "__notes__", [])
    return found


@contextmanager
def _output_errors(target: Path) -> Generator[None, None, None]:
    try:
        yield
    except Exception as caught:
        error = _told_by_the_system(caught)
        if error is None:
            raise
        kept = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        if error.errno in _FULL:
            raise OutputError(
                f"no space left for {target} ({error.strerror})",
                f"Free some space or name an output on another disk.{kept}",
            ) from caught
        if error.errno == errno.EFBIG:
            raise OutputError(
                f"cannot write {target}: a file would be larger than this system allows",
                f"Raise the limit (ulimit -f unlimited), or name an output on another disk.{kept}",
            ) from caught
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise OutputError(
                f"too many files are open to write {target}", f"Allow more, as in: ulimit -n 4096.{kept}"
            ) from caught
        if error.errno == errno.EIO:
            where = f" at {error.filename}" if error.filename else ""
            raise OutputError(
                f"cannot complete {target}: {error.strerror}{where}", f"Check the disk.{kept}"
            ) from caught
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}:
            raise OutputError(
                f"cannot write {target}: {error.strerror}", f"Name an output that you may write.{kept}"
            ) from caught
        if error.filename is None:  # nothing else would say what it is about
            what = error.strerror or str(error)
            raise OutputError(f"cannot complete {target}: {what}", f"Check the disk.{kept}") from caught
        raise
