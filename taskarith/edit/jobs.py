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
    pipes = [context.Pipe() for _ in range(1, size)]
    others = [
        context.Process(target=_member, args=(pipe, rank, size, verb, arguments), daemon=True)
        for rank, (_, pipe) in enumerate(pipes, start=1)
    ]
    for process, (_, pipe) in zip(others, pipes, strict=True):
        process.start()
        pipe.close()  # the process alone has this end: when it ends, however that be, the other end says so
    members = _Members(others, [pipe for pipe, _ in pipes])
    try:
        yield Team(0, size, size, members.wait, check=members.check)
    finally:
        for process in others:
            process.terminate()
            process.join()


class _Members:
    """The other processes, as the first one sees them.

    There is one pipe for each, and nothing that they share: what is shared is locked, and a process that is killed
    while it has the lock, or waits to be woken, would be waited for for ever.
    """

    def __init__(self, processes: list[Any], pipes: list[Any]) -> None:
        self._processes, self._pipes = processes, pipes
        self._arrived: set[int] = set()
        self._lock = threading.Lock()  # several threads check

    def wait(self) -> None:
        """Return when all have called their ``wait``, and let them go on."""
        with self._lock:
            while len(self._arrived) < len(self._pipes):
                self._receive(None)
            self._arrived.clear()
            for number, pipe in enumerate(self._pipes):
                try:
                    pipe.send(None)
                except OSError:
                    raise self._died(number) from None

    def check(self) -> None:
        """Raise what one of them failed with, if any."""
        with self._lock:
            self._receive(0)

    def _receive(self, seconds: float | None) -> None:
        for pipe in wait(self._pipes, seconds):
            number = self._pipes.index(pipe)
            try:
                error = self._pipes[number].recv()
            except (EOFError, OSError):
                raise self._died(number) from None
            if error is not None:
                raise error
            self._arrived.add(number)

    def _died(self, number: int) -> OutputError:
        self._processes[number].join()
        return _died(number + 2, len(self._pipes) + 1, self._processes[number].exitcode)


def _member(pipe: Any, rank: int, size: int, verb: Callable[..., Any], arguments: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def wait_for_all() -> None:
        pipe.send(None)
        pipe.recv()

    try:
        verb(**arguments, team=Team(rank, size, size, wait_for_all))
    except Exception as error:  # whatever it is: the first process says it, once
        with suppress(OSError):  # it has ended
            pipe.send(error if isinstance(error, TaskarithError | OSError) else _unforeseen(error, rank, size))
        os._exit(1)  # without its traceback
    with suppress(EOFError, OSError):
        pipe.recv()  # until the first process ends this one


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


def _died(number: int, size: int, code: int) -> OutputError:
    """Return what is said of a process that could say nothing itself."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    why = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return OutputError(
        f"process {number} of {size} ended early: it was stopped by {how}{why}",
        "Run the same command again, with fewer --jobs if memory is short.",
    )
