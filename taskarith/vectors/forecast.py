"""What an extraction would take, found out from headers: ``extract --dry-run``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, usable_cores
from taskarith.checkpoints.forecast import PROGRAM_BYTES, Forecast, forecast
from taskarith.progress import SILENT, Listener
from taskarith.vectors.extract import prepare
from taskarith.vectors.extraction import Extraction, dense_file, most_packed_bytes
from taskarith.vectors.factoring import Factoring
from taskarith.vectors.lora.adapter import REST_WEIGHTS
from taskarith.vectors.low_rank import prepare_low_rank

__all__ = ["ExtractForecast", "forecast_extract"]

_TORCH_BYTES = 350_000_000
"""Memory that torch and what it loads take without any buffer."""

_LEADING, _ALL = 24, 56
"""Bytes that factoring holds for each element of a matrix: for the leading singular vectors, and for all of them."""

_BUFFERS = 16
"""Buffers of a chunk in float64 that a worker has where a delta is packed; 6 where it is not."""


@dataclass(frozen=True)
class ExtractForecast:
    """What an extraction would write and take.

    :param path: The file or folder that it would write.
    :param base: The base, by name.
    :param kind: How the deltas would be stored: dense, exact, sparse, quantised or lowrank.
    :param tensors: Number of tensors that both models have and that can differ.
    :param elements: Number of their elements.
    :param read_bytes: Size of what is read.
    :param write_bytes: Size of the weights that are written: of a dense vector the size of the file, otherwise at most.
    :param cost: Memory, time on the disk, and what would fail; the time of calculating is not known.
    """

    path: Path
    base: str
    kind: str
    tensors: int
    elements: int
    read_bytes: int
    write_bytes: int
    cost: Forecast

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "path": str(self.path)}


def forecast_extract(
    base: str | None,
    finetuned: str,
    output: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    listener: Listener = SILENT,
    **options: Any,
) -> ExtractForecast:
    """Check an extraction and estimate what it takes; nothing is written.

    Parameters are those of ``extract``, or with ``rank`` or ``energy`` those of ``extract_low_rank``, and so are
    errors, as far as headers show them: not whether all deltas are finite, nor whether the base is, to the bit, the one
    that the fine-tune records.
    """
    if rank is None and energy is None:
        _, job, form = prepare(base, finetuned, output, listener, **options)
        kind = form.kind if form else "dense"
        write_bytes = most_packed_bytes(job, form) if form else dense_file(job)[2]
        memory = PROGRAM_BYTES + (_BUFFERS if form else 6) * 8 * CHUNK_ELEMENTS * usable_cores()
    else:
        options |= {"rank": rank, "energy": energy}
        _, job, work = prepare_low_rank(base, finetuned, output, listener, **options)
        kind, write_bytes = "lowrank", _most_factors(job, work)
        memory = _TORCH_BYTES + (_ALL if rank is None else _LEADING) * _largest_matrix(work) * usable_cores()
    largest = max(job.before.tensors.values(), key=lambda entry: entry.nbytes, default=None)
    read_bytes = sum(path.stat().st_size for path in job.source.files)
    return ExtractForecast(
        job.target,
        job.base.recorded_name,
        kind,
        len(job.source.shapes),
        sum(map(math.prod, job.source.shapes.values())),
        read_bytes,
        write_bytes,
        forecast(job.target, largest=largest, read_bytes=read_bytes, write_bytes=write_bytes, memory_bytes=memory),
    )


def _most_factors(job: Extraction, work: Factoring) -> int:
    """Return the bytes of the weights if everything moves, and what share of the energy is wanted needs high ranks."""
    layout = work.suppose()
    rest = replace(job, source=work.source.restricted(layout.rest, {}), target=job.target / REST_WEIGHTS)
    return work.most_bytes(layout) + (dense_file(rest)[2] if layout.rest else 0)


def _largest_matrix(work: Factoring) -> int:
    shapes = (work.architecture.parameters[unit.parameter].shape for unit in work.units())
    return max(math.prod(shape[-2:]) for shape in shapes)
