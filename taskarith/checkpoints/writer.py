"""Write a file whose size and offsets are known before the first byte, from several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from taskarith.checkpoints.reader import hasher

__all__ = ["PrintedWriter", "sized_files", "write_at"]

_FLUSH_SECONDS = 0.1


@contextmanager
def sized_files(sizes: Mapping[Path, int]) -> Generator[dict[Path, int], None, None]:
    """Create files of the given sizes, or go on with those that have them, and give their descriptors.

    A full disk is found out now, not later. While the files are open a thread of its own sends what is written on to
    the disk, so that the disk works during the arithmetic and not after it.

    :param sizes: Bytes of each file.
    :raises OSError: There is no space, or the place cannot be written.
    """
    files: dict[Path, int] = {}
    end = threading.Event()
    flusher = threading.Thread(target=_flush, args=(files, end), daemon=True)
    try:
        for path, size in sizes.items():
            files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(files[path], size)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(files[path], 0, size)
        flusher.start()
        yield files
    finally:
        end.set()
        if flusher.ident is not None:
            flusher.join()
        for descriptor in files.values():
            os.close(descriptor)


def write_at(descriptor: int, data: bytes | bytearray | memoryview, position: int) -> None:
    """Write all of ``data`` at a byte offset of a file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


class PrintedWriter:
    """Writes the bytes of one tensor at its place, piece after piece, and fingerprints them on the way."""

    def __init__(self, descriptor: int, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        self._descriptor, self._position = descriptor, offset
        self._state = hasher(dtype, shape)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next piece."""
        write_at(self._descriptor, data, self._position)
        self._state.update(data)
        self._position += len(data)

    def fingerprint(self) -> str:
        """Return the fingerprint of what was written."""
        return self._state.hexdigest()


def _flush(files: Mapping[Path, int], end: threading.Event) -> None:
    sync = getattr(os, "fdatasync", os.fsync)
    with suppress(OSError):  # the sync before publication reports what fails
        while not end.wait(_FLUSH_SECONDS):
            for descriptor in files.values():
                sync(descriptor)
