"""Several processes at one output: who is first, how many there are, and how they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["ALONE", "Team", "launched_team"]

_Task = TypeVar("_Task")


def _only_mine(mine: Any) -> list[Any]:
    return [mine]


@dataclass(frozen=True)
class Team:
    """One process's view of all that write an output.

    :param rank: Its number; the first one, 0, prepares the output and publishes it.
    :param size: How many there are.
    :param local_size: How many of them share this machine's cores.
    :param wait: Returns when all of them have called it.
    :param gather: Takes what can be pickled, and returns what all of them gave it, in the order of their numbers.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    wait: Callable[[], object] = int
    gather: Callable[[Any], list[Any]] = _only_mine

    @property
    def is_first(self) -> bool:
        """Whether this process prepares and publishes."""
        return self.rank == 0

    def share(self, tasks: Sequence[_Task]) -> Sequence[_Task]:
        """Return this process's part of tasks that are sorted by size."""
        return tasks[self.rank :: self.size]


ALONE = Team()


def launched_team() -> Team:
    """Return the processes that ``accelerate launch`` (or torchrun) started, or this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2:
        return ALONE
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=True)  # only to wait for and tell each other; the arithmetic may be anywhere
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return Team(
        state.process_index, state.num_processes, local, state.wait_for_everyone, lambda mine: gather_object([mine])
    )
