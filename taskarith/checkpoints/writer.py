"""Write a file whose size and offsets are known before the first byte, from several threads."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["new_files", "write_at"]


@contextmanager
def new_files(sizes: Mapping[Path, int]) -> Generator[dict[Path, int], None, None]:
    """Create files of the given sizes and give their descriptors; a full disk is found out now, not later.

    :param sizes: Bytes of each file, none of which exists.
    :raises OSError: There is no space, or the place cannot be written.
    """
    files: dict[Path, int] = {}
    try:
        for path, size in sizes.items():
            files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(files[path], 0, size)
        yield files
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def write_at(descriptor: int, data: bytes | bytearray | memoryview, position: int) -> None:
    """Write all of ``data`` at a byte offset of a file."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
