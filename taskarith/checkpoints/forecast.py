"""What a run would take, and what would fail, found out before it starts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.header import TensorEntry

__all__ = ["PROGRAM_BYTES", "Forecast", "forecast"]

_PROBE = 1 << 25

PROGRAM_BYTES = 80_000_000
"""Memory that the program takes without any buffer."""


@dataclass(frozen=True)
class Forecast:
    """What a run would take.

    :param memory_bytes: Anonymous memory, about.
    :param seconds: Of reading and writing, at the rates that were measured just now with 32 MB.
    :param read_rate: Bytes per second.
    :param write_rate: Bytes per second, to the disk itself; 0 where nothing could be written.
    :param problems: What would make it fail.
    """

    memory_bytes: int
    seconds: float
    read_rate: float
    write_rate: float
    problems: tuple[str, ...]


def forecast(
    target: Path, *, largest: TensorEntry | None, read_bytes: int, write_bytes: int, memory_bytes: int
) -> Forecast:
    """Measure the disk and look for what would fail.

    :param target: The file or folder that a run would write.
    :param largest: Of what it would read: the tensor that is read from now; None if there is none.
    :param read_bytes: That it would read.
    :param write_bytes: That it would write.
    :param memory_bytes: That it would hold.
    """
    place = next(folder for folder in target.absolute().parents if folder.is_dir())
    problems = []
    free = shutil.disk_usage(place).free
    if free < write_bytes:
        problems.append(f"{place} has {free / 1e9:.1f} GB of space, {write_bytes / 1e9:.1f} GB are needed")
    read_rate = _read_rate(largest) if largest else 0.0
    write_rate = _write_rate(place)
    if not write_rate:
        problems.append(f"{place} cannot be written")
    seconds = sum(size / rate for size, rate in ((read_bytes, read_rate), (write_bytes, write_rate)) if rate)
    return Forecast(memory_bytes, seconds, read_rate, write_rate, tuple(problems))


def _read_rate(tensor: TensorEntry) -> float:
    size = min(_PROBE, tensor.nbytes)
    start = time.perf_counter()
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        file.read(size)
    return size / max(time.perf_counter() - start, 1e-9)


def _write_rate(folder: Path) -> float:
    data = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            start = time.perf_counter()
            for _ in range(_PROBE // len(data)):
                file.write(data)
            os.fsync(file.fileno())
            return _PROBE / (time.perf_counter() - start)
    except OSError:
        return 0.0
