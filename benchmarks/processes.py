"""Processes that train together, as a launcher would start them: forks of this one, which has imported torch."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping

__all__ = ["exit_codes", "start_processes"]


def start_processes(
    count: int, work: Callable[[int], object], output: int, environment: Mapping[str, str] | None = None
) -> list[int]:
    """Fork this process, and return the ids of the copies.

    :param count: How many there are; more than one find each other by torch.distributed.
    :param work: Receives the rank.
    :param output: A file descriptor that takes what they print.
    :param environment: Additional variables.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.stdout.flush()
    variables = dict(environment or {})
    if count > 1:
        variables |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [_fork(rank, work, output, variables, is_alone=count == 1) for rank in range(count)]


def _fork(rank: int, work: Callable[[int], object], output: int, variables: dict[str, str], *, is_alone: bool) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= variables if is_alone else variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.dup2(output, 1)
        os.dup2(output, 2)
        work(rank)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def exit_codes(children: list[int]) -> list[int]:
    """Wait for processes to end, and return how each did: a negative number is the signal that killed it."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
