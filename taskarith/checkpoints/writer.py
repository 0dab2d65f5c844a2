"""Write files from several threads, and be sure that they are on disk when they are closed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from taskarith.checkpoints.header import build_header
from taskarith.checkpoints.reader import hasher

__all__ = ["AppendedTensors", "HashingWriter", "LateHeader", "growing_file", "sized_files", "write_at"]

_FLUSH_SECONDS = 0.1
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def sized_files(sizes: Mapping[Path, int]) -> Generator[dict[Path, int], None, None]:
    """Create files of the given sizes, or go on with those that have them, and give their descriptors.

    A full disk is found out now, not later. While the files are open a thread of its own sends what is written on to
    the disk, so that the disk works during the arithmetic and not after it.

    The system reports once that it could not write to the disk what a program has written, and only to those who
    have the file open. So whatever the thread is told is kept and raised at the end, the files are synced by the
    descriptors that wrote them, and a file of which something is lost is emptied: in memory it still looks sound, and
    a run that goes on would take it over.

    :param sizes: Bytes of each file.
    :raises OSError: There is no space, the place cannot be written, or something written is lost.
    """
    files: dict[Path, int] = {}
    lost: list[OSError] = []
    end = threading.Event()
    flusher = threading.Thread(target=_flush, args=(files.values(), end, lost), daemon=True)
    try:
        for path, size in sizes.items():
            files[path] = os.open(path, _FLAGS, 0o666)
            os.ftruncate(files[path], size)
            _allocate(files[path], size)
        flusher.start()
        yield files
    finally:
        end.set()
        if flusher.ident is not None:
            flusher.join()
        _sync(files.values(), lost)
        for descriptor in files.values():
            os.close(descriptor)
    if lost:
        raise lost[0]


@contextmanager
def growing_file(path: Path) -> Generator[int, None, None]:
    """Create a file whose size is known at the end, give its descriptor, and sync it before it is closed.

    :raises OSError: The place cannot be written, or something written is lost.
    """
    descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o666)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, data: bytes | bytearray | memoryview, position: int) -> None:
    """Write all of ``data`` at a byte offset of a file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count


class HashingWriter:
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


class LateHeader:
    """Room at the start of a safetensors file for its header, which is known only at the end.

    ``nbytes`` is the room, ``offsets`` where the tensors begin.

    :param layout: Name, dtype and shape of each tensor, as large as any can be.
    :param metadata: Placeholders at least as long as what will stand there.
    """

    def __init__(self, layout: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:
        header, self.offsets = build_header(layout, metadata)
        self.nbytes = len(header)

    def write(
        self, descriptor: int, layout: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> None:
        """Write the header."""
        header, _ = build_header(layout, metadata, length=self.nbytes)
        if len(header) != self.nbytes:
            raise AssertionError("the header outgrew its reserve")
        write_at(descriptor, header, 0)


def _late(names: Iterable[str], metadata: Mapping[str, str]) -> LateHeader:
    return LateHeader([(name, "U8", (10**15,)) for name in names], metadata)


class AppendedTensors:
    """A safetensors file of byte strings, which are appended by several threads; their sizes are known at the end.

    :param descriptor: Of the file.
    :param names: Of the tensors.
    :param metadata: Placeholders at least as long as what will stand there.
    """

    def __init__(self, descriptor: int, names: Iterable[str], metadata: Mapping[str, str]) -> None:
        self._descriptor, self._sizes, self._lock = descriptor, {}, threading.Lock()
        self._header = _late(names, metadata)
        self._position = self._header.nbytes

    @staticmethod
    def room(names: Iterable[str], metadata: Mapping[str, str]) -> int:
        """Return the bytes of the header of such a file."""
        return _late(names, metadata).nbytes

    def append(self, name: str, data: bytes) -> None:
        """Append bytes of a tensor: to those of the same one, if it has some."""
        with self._lock:
            place, self._position = self._position, self._position + len(data)
            self._sizes[name] = self._sizes.get(name, 0) + len(data)
        write_at(self._descriptor, data, place)

    def end(self, metadata: Mapping[str, str]) -> int:
        """Write the header; return the size of the file."""
        self._header.write(self._descriptor, [(name, "U8", (size,)) for name, size in self._sizes.items()], metadata)
        return self._position


def _allocate(descriptor: int, size: int) -> None:
    """Take the place on the disk that a file will have, where the file system can do that beforehand."""
    if not hasattr(os, "posix_fallocate") or not size:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise


def _flush(descriptors: Iterable[int], end: threading.Event, lost: list[OSError]) -> None:
    while not end.wait(_FLUSH_SECONDS) and not lost:
        _sync(descriptors, lost)


def _sync(descriptors: Iterable[int], lost: list[OSError]) -> None:
    """Send files to the disk; take note of what cannot be written, and empty a file that lost something."""
    for descriptor in descriptors:
        try:
            getattr(os, "fdatasync", os.fsync)(descriptor)
        except OSError as error:
            lost.append(error)
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
