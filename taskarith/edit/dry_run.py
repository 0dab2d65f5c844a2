"""What an edit would cost and what would fail, found out before it starts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, usable_cores
from taskarith.checkpoints.header import TensorEntry
from taskarith.edit.plan import EditPlan

__all__ = ["Forecast", "forecast"]

_PROBE = 1 << 25
_ROOM = 1 << 20
"""Elements that the search for the largest ones may keep of a delta."""

_PROGRAM = 80_000_000
"""Bytes that the program takes without any buffer."""


@dataclass(frozen=True)
class Forecast:
    """What a run would take.

    :param memory_bytes: Anonymous memory, about.
    :param seconds: At the rates that were measured just now, by reading and writing 32 MB.
    :param read_rate: Bytes per second.
    :param write_rate: Bytes per second, to the disk itself; 0 where nothing could be written.
    :param problems: What would make it fail.
    """

    memory_bytes: int
    seconds: float
    read_rate: float
    write_rate: float
    problems: tuple[str, ...]


def forecast(plan: EditPlan, target: Path) -> Forecast:
    """Measure the disk and look for what would fail.

    :param plan: The edit.
    :param target: The folder it would write.
    """
    place = next(folder for folder in target.absolute().parents if folder.is_dir())
    problems = []
    free = shutil.disk_usage(place).free
    if free < plan.write_bytes:
        problems.append(f"{place} has {free / 1e9:.1f} GB of space, {plan.write_bytes / 1e9:.1f} GB are needed")
    largest = max(plan.tensors, key=lambda tensor: tensor.source.nbytes, default=None)
    read_rate = _read_rate(largest.source) if largest else 0.0
    write_rate = _write_rate(place)
    if not write_rate:
        problems.append(f"{place} cannot be written")
    seconds = sum(size / rate for size, rate in ((plan.read_bytes, read_rate), (plan.write_bytes, write_rate)) if rate)
    merging = _merge_bytes(plan)
    rows = max((2 + 2 * len(tensor.terms) for tensor in plan.tensors), default=2)
    memory = _PROGRAM + usable_cores() * (rows * CHUNK_ELEMENTS * 8 + merging)
    return Forecast(memory, seconds, read_rate, write_rate, tuple(problems))


def _merge_bytes(plan: EditPlan) -> int:
    """Return what an operator that is not linear holds of one tensor: of whole matrices about six times each delta."""
    if plan.edit.method.is_linear or plan.edit.method.needs_factors:
        return 0
    if not plan.edit.method.needs_whole_tensors:
        return 8 * _ROOM * max((len(tensor.terms) for tensor in plan.tensors), default=0)
    return max((48 * one.source.elements * len(one.terms) for one in plan.whole_tensors), default=0)


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
