"""Work that nobody may disturb: locked against other processes, whose locks end with them, and against Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from taskarith.errors import OutputError

__all__ = ["LOCK_NAME", "check_unlocked", "lock_folder", "uninterrupted", "unlock_folder"]

LOCK_NAME = "lock"


def lock_folder(folder: Path, target: Path) -> int:
    """Make a folder where it does not exist, and lock it; return the descriptor that holds the lock until it is closed.

    :param folder: Where work on an output is done.
    :param target: The output.
    :raises OutputError: Another process has it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(folder / LOCK_NAME, flags, 0o666)
        except FileNotFoundError:
            continue  # the run that had the folder has just removed it
        except OSError:
            _remove_unused(folder)
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), (folder / LOCK_NAME).stat()):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise _busy(target) from error
        except FileNotFoundError:
            pass
        except OSError as error:  # as on some network disks
            unlock_folder(folder, descriptor)
            raise OutputError(
                f"two runs could write {target}: the disk of {folder.parent} does not lock files ({error.strerror})",
                "Name an output on another disk, and copy it when it is complete.",
            ) from error
        os.close(descriptor)


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Give the lock of a folder back; a folder in which nothing else lies goes with it."""
    _remove_unused(folder)
    os.close(descriptor)


def _remove_unused(folder: Path) -> None:
    with suppress(OSError):
        if os.listdir(folder) == [LOCK_NAME]:  # noqa: PTH208
            (folder / LOCK_NAME).unlink()
        folder.rmdir()  # fails if anything lies there


def check_unlocked(folder: Path, target: Path) -> None:
    """Refuse a folder that another process has locked; see ``lock_folder``."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(target) from error
    finally:
        os.close(descriptor)


@contextmanager
def uninterrupted(notes: Sequence[str] = ()) -> Generator[None]:
    """Put Ctrl-C off until something short is done that would be torn by it.

    :param notes: What is said then of what was done; it may be added to meanwhile.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not is_main or not callable(before):  # Ctrl-C ends the process at once, or nothing
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        try:
            before(caught[0], None)
        except KeyboardInterrupt as error:
            for note in notes:
                error.add_note(note)
            raise


def _busy(target: Path) -> OutputError:
    return OutputError(f"another run is writing {target}", "Wait until it has ended, or name another output.")
