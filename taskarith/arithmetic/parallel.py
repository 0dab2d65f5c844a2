"""One worker a core over many tensors, each worker calculating alone; stops promptly, loses no error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from taskarith.progress import Listener

__all__ = ["CHUNK_ELEMENTS", "chunks", "work_through"]

_Task = TypeVar("_Task")

CHUNK_ELEMENTS = 1 << 17
"""Elements calculated at a time: a few float64 temporaries of this size stay in a core's cache."""


def chunks(elements: int, size: int = CHUNK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Return the ranges ``start, stop`` that cut a tensor of ``elements`` into pieces of at most ``size``."""
    for start in range(0, elements, size):
        yield start, min(start + size, elements)


def work_through(
    tasks: Sequence[_Task],
    do: Callable[[_Task, threading.Event], int],
    listener: Listener,
    what: str,
    total: int,
    workers: int | None = None,
) -> None:
    """Do all tasks on a few threads, in the order given.

    :param tasks: The largest first, so that no thread is left alone at the end.
    :param do: Does one task and returns its size; it looks at the event now and then and gives up when it is set.
    :param listener: Told how much is done.
    :param what: What is being done, for the listener.
    :param total: Sum of the sizes of all tasks.
    :param workers: Number of threads; by default as many as torch would use.
    """
    threads = torch.get_num_threads()
    stop, done = threading.Event(), 0
    torch.set_num_threads(1)  # the pieces are small: threads inside an operation would only wait for each other
    try:
        with ThreadPoolExecutor(workers or threads) as pool:
            futures = [pool.submit(do, task, stop) for task in tasks]
            try:
                for future in as_completed(futures):
                    done += future.result()
                    listener.progress(what, done, total)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
