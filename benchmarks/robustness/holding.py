"""What a process holds at a moment, and whether that grows."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.cache import cache_folders

__all__ = ["Holding", "growth", "processes_with", "rows_of"]

_GROWTH = 1.1
"""What resident memory may be in the second half, by what it was in the first."""
_PATIENCE = 60.0
"""Seconds in which a process whose parent was killed has to end."""


@dataclass(frozen=True)
class Holding:
    """What this process holds, and what it and its children have left.

    :param megabytes: Resident memory.
    :param shared: Segments of shared memory that it has mapped, or that lie in /dev/shm under its number.
    :param temporary: Entries of the folder for temporary files.
    :param cached: Files of the cache.
    """

    megabytes: float
    descriptors: int
    threads: int
    shared: int
    temporary: int
    cached: int

    @staticmethod
    def now(temporary: Path) -> Holding:
        """Look."""
        gc.collect()
        me, shared = Path("/proc/self"), Path("/dev/shm")  # noqa: S108
        pages = int((me / "statm").read_text(encoding="ascii").split()[1])
        named = list(shared.glob(f"*{os.getpid()}*")) if shared.is_dir() else []
        return Holding(
            megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            descriptors=sum(1 for _ in (me / "fd").iterdir()) - 1,
            threads=sum(1 for _ in (me / "task").iterdir()),
            shared=(me / "maps").read_text(encoding="utf-8").count(" /dev/shm/") + len(named),
            temporary=sum(1 for _ in temporary.rglob("*")),
            cached=sum(1 for folder in cache_folders("") for path in folder.rglob("*") if path.is_file()),
        )


def growth(held: Sequence[Holding]) -> list[str]:
    """Return what there is ever more of in the second half of a run than in the first.

    The cache is left out: it has what is known of each kind of model that was met, and a run meets new ones.
    """
    middle = len(held) // 2
    first, second = held[: middle + 1], held[middle:]
    found = []
    for what in ("megabytes", "descriptors", "threads", "shared", "temporary"):
        before, after = (max(getattr(one, what) for one in half) for half in (first, second))
        if after > before * (_GROWTH if what == "megabytes" else 1):
            found.append(f"{what} grow from {before:.0f} to {after:.0f}")
    return found


def rows_of(held: Sequence[Holding]) -> list[str]:
    """Return a table of what was held at the start, in the middle and at the end."""
    moments = {"after the first round": held[0], "in the middle": held[len(held) // 2], "at the end": held[-1]}
    head = ["| the process | MB | descriptors | threads | shared memory | temporary files | files in the cache |"]
    return [
        *head,
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {one.megabytes:.0f} | {one.descriptors} | {one.threads} | {one.shared} | {one.temporary} "
            f"| {one.cached} |"
            for name, one in moments.items()
        ),
    ]


def processes_with(variable: str) -> list[str]:
    """Return the command lines of other processes that were started with a variable and do not end soon.

    :param variable: As ``NAME=VALUE``.
    """
    until = time.monotonic() + _PATIENCE
    while (found := _processes(variable)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def _processes(variable: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended, or is another user's
            continue
    return found
