"""Run one command and measure it: seconds, seconds until its output is on disk, memory, bytes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Failure", "Measure", "as_installed", "can_drop_caches", "drop_caches", "measure", "warm_up"]

_INTERVAL = 0.02
_PIECE = 1 << 22
_DROP = Path("/proc/sys/vm/drop_caches")


class Failure(Exception):  # noqa: N818 - a result like any other
    """A command that did not do its work, with the last line it printed."""


@dataclass(frozen=True)
class Measure:
    """What one run took; memory is the peak over the process and its children.

    :param seconds: From start to end of the process.
    :param durable: The same, and then until its output has been synced.
    :param anonymous: Bytes of memory of its own: no files, no page cache.
    :param resident: Bytes of all its memory, mapped files among it.
    :param read: Bytes asked for by system calls; what it reads through memory maps is not in it.
    :param written: Bytes written by system calls.
    :param disk_read: Bytes that had to come from the disk.
    :param processor: Seconds of processor time that it and its children spent in programs, not in the system.
    """

    seconds: float
    durable: float
    anonymous: int
    resident: int
    read: int
    written: int
    disk_read: int
    processor: float


def as_installed() -> dict[str, str]:
    """Return the environment in which Python keeps what it compiles, as an installed package does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure(command: Sequence[str], output: Path, log: Path, environment: Mapping[str, str]) -> Measure:
    """Run a command that writes the folder ``output``.

    :param command: Program and arguments.
    :param output: What it writes.
    :param log: Takes what it prints.
    :param environment: Is added to the environment.
    :raises Failure: It ended with another exit code than 0.
    """
    os.sync()  # what earlier runs left unwritten is not this run's work
    peak, over = [0, 0], threading.Event()
    with log.open("wb") as file:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**as_installed(), **environment}, start_new_session=True
        )
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, over))
        watcher.start()
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays, so that its counters can be read
            seconds = time.perf_counter() - start
            _sync(output)
            durable = time.perf_counter() - start
            counters = _numbers(Path(f"/proc/{process.pid}/io"))
            processor = -resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            process.wait()
            processor += resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        finally:
            over.set()
            watcher.join()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise Failure(f"exit code {process.returncode}: {lines[-1] if lines else 'it printed nothing'}")
    return Measure(seconds, durable, *peak, counters["rchar"], counters["wchar"], counters["read_bytes"], processor)


def warm_up(files: Iterable[Path]) -> None:
    """Read files once, so that they are in the page cache."""
    room = bytearray(_PIECE)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(room):
                pass


def can_drop_caches() -> bool:
    """Return whether this process may empty the page cache."""
    return os.access(_DROP, os.W_OK)


def drop_caches() -> None:
    """Empty the page cache."""
    os.sync()
    _DROP.write_text("3\n", encoding="ascii")


def _watch(pid: int, peak: list[int], over: threading.Event) -> None:
    while not over.wait(_INTERVAL):
        statuses = [_numbers(Path(f"/proc/{one}/status")) for one in _family(pid)]
        for index, names in enumerate((("RssAnon", "RssShmem"), ("VmRSS",))):
            total = sum(status.get(name, 0) for status in statuses for name in names)
            peak[index] = max(peak[index], total << 10)


def _family(pid: int) -> list[int]:
    """Return a process and all its children, and theirs."""
    found = [pid]
    for one in found:  # grows while it is walked
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text(encoding="ascii").split()]
            except OSError:  # that thread has ended
                continue
    return found


def _numbers(path: Path) -> dict[str, int]:
    """Return the whole numbers of a file of ``name: number`` lines; none where the process is gone."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _sync(folder: Path) -> None:
    """Send a folder and the files in it to the disk."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
