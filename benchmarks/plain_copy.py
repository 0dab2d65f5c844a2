"""The yardstick: read the same bytes, write as many, by two threads, and do nothing else.

Run as ``python plain_copy.py copy OUTPUT BYTES INPUT...``, or as ``python plain_copy.py read INPUT...`` to read only.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

PIECE = 1 << 18
THREADS = 2


def copy(output: str, size: int, inputs: list[str]) -> None:
    """Write ``size`` bytes; for each piece of them read the piece that corresponds to it from every input."""
    os.makedirs(os.path.dirname(output), exist_ok=True)  # noqa: PTH103, PTH120 - pathlib takes a tenth of the start
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    sources = [os.open(name, os.O_RDONLY) for name in inputs]
    lengths = [os.fstat(source).st_size for source in sources]
    os.ftruncate(target, size)

    def work(first: int) -> None:
        room = bytearray(PIECE + max(PIECE * length // size + 1 for length in lengths))
        view = memoryview(room)
        for start in range(first * PIECE, size, THREADS * PIECE):
            end = min(start + PIECE, size)
            for source, length in zip(sources, lengths, strict=True):
                begin, stop = length * start // size, length * end // size
                os.preadv(source, [view[: stop - begin]], begin)
            os.pwrite(target, view[: end - start], start)

    _by_threads(work)


def read(inputs: list[str]) -> None:
    """Read every piece of every file into the same small room."""
    sources, size = [os.open(name, os.O_RDONLY) for name in inputs], PIECE // 2

    def work(first: int) -> None:
        view = memoryview(bytearray(size))
        for source in sources:
            for start in range(first * size, os.fstat(source).st_size, THREADS * size):
                os.preadv(source, [view], start)

    _by_threads(work)


def _by_threads(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    if sys.argv[1] == "read":
        read(sys.argv[2:])
    else:
        copy(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
