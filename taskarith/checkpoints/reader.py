"""Read and hash the bytes of tensors, piece by piece; files may be shared between threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import CheckpointError

__all__ = ["TensorReader", "combine_fingerprints", "fingerprint_bytes", "hasher"]

_PIECE = 1 << 20


class TensorReader:
    """Reads ranges of tensors from any number of files, which it keeps open until it is closed."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, tensor: TensorEntry, start: int, stop: int) -> bytearray:
        """Return bytes ``start`` to ``stop`` of a tensor, counted from its first byte.

        :raises CheckpointError: The file has become shorter, or cannot be read.
        """
        buffer = bytearray(stop - start)
        view, position = memoryview(buffer), tensor.offset + start
        while view:
            try:
                count = os.preadv(self._descriptor(tensor.path), [view], position)
            except OSError as error:
                raise CheckpointError(
                    f"cannot read {tensor.name} in {tensor.path}: {error.strerror}",
                    "Check the disk and run again.",
                ) from error
            if count == 0:
                raise CheckpointError(
                    f"{tensor.path} ended inside {tensor.name}: it changed while it was read",
                    "Let no other program write the file, and run again.",
                )
            view, position = view[count:], position + count
        return buffer

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
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._files[path]


def hasher(dtype: str, shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """Start the fingerprint of a tensor; its bytes follow in order."""
    return xxhash.xxh3_128(f"{dtype}{list(shape)}".encode())


def combine_fingerprints(tensors: dict[str, str]) -> str:
    """Return one fingerprint of many named tensors, whatever their order or sharding."""
    return fingerprint_bytes("".join(f"{name}\0{tensors[name]}\n" for name in sorted(tensors)).encode())


def fingerprint_bytes(data: bytes) -> str:
    """Return xxh3-128 of some bytes, as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)
