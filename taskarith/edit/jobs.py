"""Several processes of one run on this machine: started together, ended together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
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
        yield _team(0, size, barrier, errors)
    finally:
        barrier.abort()
        for process in others:
            process.terminate()
            process.join()
        watcher.join()


def _team(rank: int, size: int, barrier: Any, errors: Any = None) -> Team:
    """Return a process's view; the first one raises what another one failed with."""

    def check() -> None:
        if barrier.broken:
            if errors is not None and not errors.empty():
                raise errors.get()
            raise OutputError("a process of this run ended early", "Run the same command again.")

    def wait_for_all() -> None:
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
        check()

    return Team(rank, size, size, wait_for_all, check=check)


def _member(
    barrier: Any, errors: Any, rank: int, size: int, verb: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        verb(**arguments, team=_team(rank, size, barrier))
    except TaskarithError as error:
        if not barrier.broken:  # the first failure is that of the run
            errors.put(error)
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # it was killed, and nobody will publish what is written here


def _watch(others: list[Any], barrier: Any) -> None:
    """Break the barrier when a process ends in failure, so that nobody waits for it for ever."""
    running = list(others)
    while running:
        for sentinel in wait([process.sentinel for process in running]):
            process = next(one for one in running if one.sentinel == sentinel)
            running.remove(process)
            if process.exitcode != 0:
                barrier.abort()
