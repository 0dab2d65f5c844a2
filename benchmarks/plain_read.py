"""The yardstick of what only reads: read files once, by two threads, and do nothing else.

Run as ``python plain_read.py INPUT...``.
"""

from __future__ import annotations

import os
import sys
import threading

PIECE = 1 << 17
THREADS = 2


def read(inputs: list[str]) -> None:
    """Read every piece of every file into the same small room."""
    sources = [os.open(name, os.O_RDONLY) for name in inputs]

    def work(first: int) -> None:
        view = memoryview(bytearray(PIECE))
        for source in sources:
            for start in range(first * PIECE, os.fstat(source).st_size, THREADS * PIECE):
                os.preadv(source, [view], start)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    read(sys.argv[1:])
