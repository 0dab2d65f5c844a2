"""What an edit would cost and what would fail, found out before it starts."""

from __future__ import annotations

from pathlib import Path

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, usable_cores
from taskarith.checkpoints.forecast import PROGRAM_BYTES, Forecast, forecast
from taskarith.edit.plan import EditPlan

__all__ = ["forecast_edit"]

_ROOM = 1 << 20
"""Elements that the search for the largest ones may keep of a delta."""


def forecast_edit(plan: EditPlan, target: Path) -> Forecast:
    """Measure the disk and look for what would fail.

    :param plan: The edit.
    :param target: The folder it would write.
    """
    rows = max((2 + 2 * len(tensor.terms) for tensor in plan.tensors), default=2)
    largest = max(plan.tensors, key=lambda tensor: tensor.source.nbytes, default=None)
    return forecast(
        target,
        largest=largest.source if largest else None,
        read_bytes=plan.read_bytes,
        write_bytes=plan.write_bytes,
        memory_bytes=PROGRAM_BYTES + usable_cores() * (rows * CHUNK_ELEMENTS * 8 + _merge_bytes(plan)),
    )


def _merge_bytes(plan: EditPlan) -> int:
    """Return what an operator that is not linear holds of one tensor: of whole matrices about six times each delta."""
    if plan.edit.method.is_linear or plan.edit.method.needs_factors:
        return 0
    if not plan.edit.method.needs_whole_tensors:
        return 8 * _ROOM * max((len(tensor.terms) for tensor in plan.tensors), default=0)
    return max((48 * one.source.elements * len(one.terms) for one in plan.whole_tensors), default=0)
