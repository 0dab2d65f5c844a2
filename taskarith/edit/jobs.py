"""Several processes of one run on this machine: started together, ended together."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from taskarith.checkpoints.team import Team
from taskarith.errors import OutputError, TaskarithError

__all__ = ["started_team"]


@contextmanager
def started_team(size: int, verb: Callable[..., Any], arguments: dict[str, Any]) -> Generator[Team, None, None]:
    """Start ``size - 1`` processes that call ``verb(**arguments, team=...)``; give the first place in their team.

    :param size: Number of processes, this one included.
    :param verb: A function of a module.
    :param arguments: What it is called with.
    :raises TaskarithError: What one of the processes failed with.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    barrier, errors = context.Barrier(size), context.SimpleQueue()
    others = [
        context.Process(target=_member, args=(barrier, errors, rank, size, verb, arguments), daemon=True)
        for rank in range(1, size)
    ]
    for process in others:
        process.start()
    watcher = threading.Thread(target=_watch, args=(others, barrier), daemon=True)
    watcher.start()
    try:
        yield Team(0, size, size, barrier.wait)
    except threading.BrokenBarrierError:
        if errors.empty():
            raise OutputError("a process of this run ended early", "Run the same command again: it goes on.") from None
        raise errors.get() from None
    finally:
        barrier.abort()
        for process in others:
            process.terminate()
            process.join()
        watcher.join()


def _member(
    barrier: Any, errors: Any, rank: int, size: int, verb: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    try:
        verb(**arguments, team=Team(rank, size, size, barrier.wait))
    except TaskarithError as error:
        errors.put(error)
        raise SystemExit(1) from None
    except threading.BrokenBarrierError:
        raise SystemExit(1) from None


def _watch(others: list[Any], barrier: Any) -> None:
    """Break the barrier when a process ends in failure, so that nobody waits for it for ever."""
    running = list(others)
    while running:
        for sentinel in wait([process.sentinel for process in running]):
            process = next(one for one in running if one.sentinel == sentinel)
            running.remove(process)
            if process.exitcode != 0:
                barrier.abort()
