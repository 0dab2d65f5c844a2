"""Read and hash the bytes of tensors, piece by piece; files may be shared between threads."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import xxhash

from taskarith.checkpoints.header import TensorEntry, file_state
from taskarith.errors import CheckpointError, ReadError

__all__ = [
    "HashingTensor",
    "TensorReader",
    "check_unchanged",
    "combine_fingerprints",
    "file_states",
    "fingerprint_bytes",
    "hasher",
]

_PIECE = 1 << 20
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


@dataclass
class _File:
    """An open file, and how many threads are reading it."""

    descriptor: int
    users: int = 0


class TensorReader:
    """Reads ranges of tensors from any number of files.

    Files stay open until it is closed; where the system allows no more of them, those that nobody reads are closed.
    """

    def __init__(self) -> None:
        self._files: dict[Path, _File] = {}
        self._lock = threading.Lock()

    def read(self, tensor: TensorEntry, start: int, stop: int) -> bytearray:
        """Return bytes ``start`` to ``stop`` of a tensor, counted from its first byte.

        :raises CheckpointError: The file has changed, or cannot be read.
        """
        buffer = bytearray(stop - start)
        self.read_into(tensor, start, memoryview(buffer))
        return buffer

    def read_into(self, tensor: TensorEntry, start: int, out: memoryview) -> None:
        """Read bytes of a tensor, from its byte ``start`` on, into all of ``out``.

        :raises CheckpointError: The file has changed since its header was read, has become shorter, or cannot be read.
        """
        position = tensor.offset + start
        try:
            with self._using(tensor) as descriptor:
                while out:
                    count = os.preadv(descriptor, [out], position)
                    if count == 0:
                        raise CheckpointError(
                            f"{tensor.path} ended inside {tensor.name}: it changed while it was read",
                            "Let no other program write the file, and run again.",
                        )
                    out, position = out[count:], position + count
        except OSError as error:
            hint = "Allow more with 'ulimit -n 4096'" if error.errno == errno.EMFILE else "Check the disk"
            raise ReadError(
                f"cannot read {tensor.name} in {tensor.path}: {error.strerror}", f"{hint}, and run again."
            ) from error

    def pieces(self, tensor: TensorEntry, size: int = _PIECE) -> Iterator[bytearray]:
        """Return the bytes of a tensor in pieces of at most ``size`` bytes."""
        for start in range(0, tensor.nbytes, size):
            yield self.read(tensor, start, min(start + size, tensor.nbytes))

    def fingerprint(self, tensor: TensorEntry) -> str:
        """Return the content fingerprint of a tensor: xxh3-128 of dtype, shape and bytes, 32 hex digits."""
        state = hasher(tensor.dtype, tensor.shape)
        for piece in self.pieces(tensor):
            state.update(piece)
        return state.hexdigest()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._close(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _using(self, tensor: TensorEntry) -> Generator[int, None, None]:
        """Give the descriptor of a tensor's file, which stays open meanwhile."""
        with self._lock:
            file = self._files.get(tensor.path) or self._open(tensor)
            file.users += 1
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1

    def _open(self, tensor: TensorEntry) -> _File:
        try:
            descriptor = os.open(tensor.path, _FLAGS)
        except OSError as error:
            idle = [path for path, file in self._files.items() if not file.users]
            if error.errno not in {errno.EMFILE, errno.ENFILE} or not idle:
                raise
            self._close(idle)
            descriptor = os.open(tensor.path, _FLAGS)
        self._files[tensor.path] = _File(descriptor)
        if tensor.state and file_state(os.fstat(descriptor)) != tensor.state:
            self._close([tensor.path])
            raise _changed(tensor.path)
        return self._files[tensor.path]

    def _close(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            os.close(self._files.pop(path).descriptor)


class HashingTensor:
    """Reads one tensor from beginning to end, and fingerprints it on the way."""

    def __init__(self, entry: TensorEntry, reader: TensorReader) -> None:
        self.entry, self._reader = entry, reader
        self._state = hasher(entry.dtype, entry.shape)
        self._position = 0

    def read_into(self, out: memoryview) -> None:
        """Read the next bytes into all of ``out``."""
        self._reader.read_into(self.entry, self._position, out)
        self._position += len(out)
        self._state.update(out)

    def fingerprint(self) -> str:
        """Return the fingerprint, valid after the last byte."""
        return self._state.hexdigest()


def file_states(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return by path what changes with a file; see ``header.file_state``."""
    return {str(path): list(file_state(path.stat())) for path in sorted(set(paths))}


def check_unchanged(states: dict[str, list[int]]) -> None:
    """Compare files with what ``file_states`` returned before they were read.

    :raises CheckpointError: One of them has changed or is gone.
    """
    try:
        now = file_states(Path(path) for path in states)
    except OSError as error:
        raise CheckpointError(f"{error.filename} is gone: it was read just now", "Run again.") from error
    changed = [path for path, state in states.items() if now[path] != state]
    if changed:
        raise _changed(changed[0])


def _changed(path: Path | str) -> CheckpointError:
    return CheckpointError(f"{path} changed while it was read", "Let no other program write the inputs, and run again.")


def hasher(dtype: str, shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """Start the fingerprint of a tensor; its bytes follow in order."""
    return xxhash.xxh3_128(f"{dtype}{list(shape)}".encode())


def combine_fingerprints(tensors: dict[str, str]) -> str:
    """Return one fingerprint of many named tensors, whatever their order or sharding."""
    return fingerprint_bytes("".join(f"{name}\0{tensors[name]}\n" for name in sorted(tensors)).encode())


def fingerprint_bytes(data: bytes) -> str:
    """Return xxh3-128 of some bytes, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)
