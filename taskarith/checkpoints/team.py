"""Several processes at one output: who is first, how many there are, and how they wait for each other."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from taskarith.errors import OutputError, TaskarithError, UsageError

__all__ = ["ALONE", "Team", "check_launch", "is_first_to_fail", "launched_team", "leave_team", "told_of_the_dead"]

_Task = TypeVar("_Task")
_PATIENCE = 5  # seconds
_UNREACHABLE = re.compile("gloo|NCCL|Connection (closed|reset)|Broken pipe|[Tt]imed out|Socket Timeout")


def _only_mine(mine: Any) -> list[Any]:
    return [mine]


def _itself(mine: Any) -> Any:
    return mine


@dataclass(frozen=True)
class Team:
    """One process's view of all that write an output.

    :param rank: Its number; the first one, 0, prepares the output and publishes it.
    :param size: How many there are.
    :param local_size: How many of them share this machine's cores.
    :param wait: Returns when all of them have called it.
    :param gather: Takes what can be pickled, and returns what all of them gave it, in the order of their numbers.
    :param add: Takes a tensor in CPU memory, and returns the sum of what all of them gave it.
    :param check: Raises an error where one of them is known to have ended early; so do the others.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    wait: Callable[[], object] = int
    gather: Callable[[Any], list[Any]] = _only_mine
    add: Callable[[Any], Any] = _itself
    check: Callable[[], object] = int

    @property
    def is_first(self) -> bool:
        """Whether this process prepares and publishes."""
        return self.rank == 0

    def share(self, tasks: Sequence[_Task]) -> Sequence[_Task]:
        """Return this process's part of tasks that are sorted by size."""
        return tasks[self.rank :: self.size]

    def by_first(self, act: Callable[[], _Task]) -> _Task:
        """Let the first process do something, and all others return what it returns, or raise what it raises.

        :param act: What it returns can be pickled.
        :raises TaskarithError: ``act`` raised it.
        """
        if self.size == 1:
            return act()
        found, failure = None, None
        if self.is_first:
            try:
                found = act()
            except TaskarithError as error:
                failure = error
        found, failure = self.gather((found, failure))[0]
        if failure is not None:
            raise failure
        return found


ALONE = Team()


def launched_team() -> Team:
    """Return the processes that ``accelerate launch`` (or torchrun) started, or this one alone.

    :raises UsageError: Several were asked for, and one was started.
    """
    check_launch()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2:
        return ALONE
    from accelerate import PartialState
    from accelerate.utils import gather_object, reduce

    state = PartialState(cpu=True)  # only to tell each other; the arithmetic may be anywhere
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    gather = _told(lambda mine: gather_object([mine]))
    add = _told(lambda mine: reduce(mine, "sum"))
    return Team(state.process_index, state.num_processes, local, _told(wait_for_all), gather, add)


def wait_for_all() -> None:
    """Return when all launched processes have called this.

    accelerate's ``wait_for_everyone`` ends in a CUDA error where there are fewer GPUs than processes, although these
    calculate on CPUs or share a GPU.
    """
    from accelerate.utils import gather_object

    gather_object([None])


def check_launch() -> None:
    """Refuse to be the only one of several processes that ``accelerate launch --cpu`` should have started.

    It starts one without a word (accelerate issue 2741); a training would have a part of the batch that was asked for.

    :raises UsageError: That is so.
    """
    launched = {"MASTER_ADDR", "MASTER_PORT", "ACCELERATE_DYNAMO_BACKEND"} <= os.environ.keys()
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "on"}
    if launched and on_cpu and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "accelerate launch --cpu was asked for several processes and started one",
            "ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m taskarith ... starts two.",
        )


def leave_team() -> None:
    """Take leave of the other processes at the end of a command; a second training in a process could not go on."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def is_first_to_fail() -> bool:
    """Tell whether no other launched process has failed before: the others fail in the same way, or because of it."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return True
    from torch.distributed import TCPStore

    try:
        port, patience = int(os.environ["MASTER_PORT"]), timedelta(seconds=_PATIENCE)
        store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=patience)
        return store.add(f"taskarith failed {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # without a launcher it is in the first process, which may have ended
        return True


@contextmanager
def told_of_the_dead() -> Generator[None]:
    """Say what it means when the others cannot be reached: the library says how it noticed.

    :raises OutputError: They cannot be.
    """
    try:
        yield
    except RuntimeError as error:
        if not _UNREACHABLE.search(str(error)):
            raise
        raise _ended_early(error) from error


def _told(act: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(act)
    def do(*arguments: Any) -> Any:
        try:
            return act(*arguments)
        except RuntimeError as error:
            raise _ended_early(error) from error

    return do


def _ended_early(error: RuntimeError) -> OutputError:
    return OutputError(
        f"another process of this run ended early, or cannot be reached ({str(error).partition(chr(10))[0]})",
        "If it does not say why, it was killed: look whether memory ran out. Then run the same command again.",
    )
