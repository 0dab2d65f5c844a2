"""Where what was worked out once is kept: the first folder of the user's that can be written."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["cache_folders", "keep_file", "locked_folder", "writable_caches"]

_SHARED = ("/tmp", "/var/tmp")  # noqa: S108 - a folder in it is taken only if it is the user's alone


def cache_folders(part: str) -> list[Path]:
    """Return the folders where something may be kept already, the one that is written first.

    It is a part of ``TASKARITH_CACHE``, or else of ``taskarith`` in ``XDG_CACHE_HOME``, or else in ``~/.cache``; then,
    of users who may not write there, of a folder of their own among the temporary ones.

    :param part: Name of the subfolder.
    """
    chosen = _chosen()
    folders = [*([chosen] if chosen else []), *(folder for folder in _temporary() if _is_private(folder))]
    return [folder / part for folder in folders]


def writable_caches(part: str) -> Iterator[Path]:
    """Give out those of ``cache_folders`` in which files can be made, which then exist."""
    chosen = _chosen()
    if chosen and _is_writable(chosen / part):
        yield chosen / part
    for folder in _temporary():
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder) and _is_writable(folder / part):
            yield folder / part


def keep_file(path: Path, data: bytes) -> bool:
    """Write a file of the cache in one step, readable for others as the umask says; return whether that was possible.

    :param path: The file; its folder is made.
    :param data: All of it.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                file.write(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError:
        return False
    return True


@contextmanager
def locked_folder(folder: Path, wait: Callable[[], None]) -> Generator[None, None, None]:
    """Hold a folder against other processes; where it cannot be locked, as on some network disks, nobody waits.

    :param folder: It exists.
    :param wait: Called before waiting for another process.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            _lock(descriptor, wait)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(descriptor: int, wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise
        wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _chosen() -> Path | None:
    own, shared = os.environ.get("TASKARITH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    if shared and Path(shared).is_absolute():  # others are to be ignored, says the XDG base directory specification
        return Path(shared) / "taskarith"
    with suppress(RuntimeError):  # neither HOME nor an entry among the system's users
        home = Path.home()
        return home / ".cache" / "taskarith" if home.is_absolute() else None
    return None


def _temporary() -> list[Path]:
    places = [Path(place) for place in (os.environ.get("TMPDIR"), *_SHARED) if place]
    return [place / f"taskarith-{os.getuid()}" for place in places if place.is_absolute()]


def _is_private(folder: Path) -> bool:
    """Tell whether a folder is there and only this user can write it: nobody else may put code into it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _is_writable(folder: Path) -> bool:
    probe = folder / f".{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError:
        return False
    return True
