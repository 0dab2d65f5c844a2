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
    :raises TaskarithError, OSError: What one of the processes failed with; it says nothing itself.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    barrier, errors = context.Barrier(size), context.SimpleQueue()
    others = [
        context.Process(target=_member, args=(barrier, errors, rank, size, verb, arguments), daemon=True)
        for rank in range(1, size)
    ]
    for process in others:
        process.start()
    watcher = threading.Thread(target=_watch, args=(others, barrier, errors), daemon=True)
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
            raise OutputError("another process of this run ended early", "Run the same command again.")

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
    except Exception as error:  # whatever it is: the first process says it, once
        if not barrier.broken:  # the first failure is that of the run
            errors.put(error if isinstance(error, TaskarithError | OSError) else _unforeseen(error, rank, size))
        os._exit(1)  # without its traceback


def _unforeseen(error: Exception, rank: int, size: int) -> OutputError:
    """Return what is said of a failure that nobody has foreseen, such as too little memory."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    again = "run the same command with fewer --jobs; with --jobs 1 it says where, if it fails again"
    return OutputError(
        f"process {rank + 1} of {size} failed: {what}", f"Check that there is memory enough, and {again}."
    )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # it was killed, and nobody will publish what is written here


def _watch(others: list[Any], barrier: Any, errors: Any) -> None:
    """Break the barrier when a process ends in failure, so that nobody waits for it for ever, and say which one."""
    running = list(others)
    while running:
        for sentinel in wait([process.sentinel for process in running]):
            process = next(one for one in running if one.sentinel == sentinel)
            running.remove(process)
            if process.exitcode != 0:
                if not barrier.broken and errors.empty():
                    errors.put(_died(others.index(process) + 2, len(others) + 1, process.exitcode))
                barrier.abort()


def _died(number: int, size: int, code: int) -> OutputError:
    """Return what is said of a process that could say nothing itself."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    why = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return OutputError(
        f"process {number} of {size} ended early: it was stopped by {how}{why}",
        "Run the same command again, with fewer --jobs if memory is short.",
    )
