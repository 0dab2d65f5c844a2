"""Memory that a device has left, limits of a container and of the process included."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

__all__ = ["available_memory", "is_out_of_memory"]

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still have: of a GPU or, for a CPU, of RAM and swap.

    Processes that were launched together on a machine count as having equal shares of its RAM.

    :param device: Where the tensors will be.
    :return: None where that is not known.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    machine = psutil.virtual_memory().available + psutil.swap_memory().free
    together = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    return min([min([machine, *_group_rooms()]) // together, *_own_room()])


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, torch or the system means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def _own_room() -> Iterator[int]:
    """Yield what ``ulimit -v`` leaves of the process's address space, if there is such a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield max(0, limit - psutil.Process().memory_info().vms)


def _group_rooms() -> Iterator[int]:
    """Yield what each control group that this process is in leaves: version 1 or 2, the inner ones first."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                root = _GROUPS / "memory"
            else:
                continue
            inner = root / path.lstrip("/")
            yield from (room for group in (inner, *inner.parents) if (room := _group_room(group, *names)) is not None)


def _group_room(group: Path, limit: str, usage: str, cached: str) -> int | None:
    """Return the limit of a control group less its usage; the cache of files can be dropped. None without a limit."""
    with suppress(OSError, ValueError):
        most = int((group / limit).read_text())  # "max" where there is none
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - int((group / usage).read_text()) + int(counts.get(cached, 0)))
    return None
