"""Which rows of embeddings and heads an edit reaches where the vocabularies differ in size."""

from __future__ import annotations

from collections.abc import Iterator

from taskarith.edit.operands import ROWWISE
from taskarith.edit.plan import EditPlan, TensorPlan
from taskarith.errors import name_some
from taskarith.vectors.vector import Difference, Stored

__all__ = ["rows_left_alone", "shared_rows"]


def shared_rows(plan: EditPlan, tensor: TensorPlan) -> int | None:
    """Return how many rows of a tensor an operand reaches at least, or None if each reaches all of them."""
    rows = min((rows for _, rows in _rows(plan, tensor)), default=None)
    return None if rows is None or rows >= tensor.source.shape[0] else rows


def rows_left_alone(plan: EditPlan) -> list[str]:
    """Say of each operand which rows of the model it does not reach, and which of its own find no place there."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for tensor in plan.tensors:
        for name, rows in _rows(plan, tensor):
            found.setdefault((name, rows, tensor.source.shape[0]), []).append(tensor.source.name)
    return [
        f"{min(rows, whole)} rows of {name_some(tensors)} are edited; {abs(whole - rows)} more that "
        + (
            f"only the model has are left as they are, without {name}"
            if rows < whole
            else f"only {name} has are not used"
        )
        for (name, rows, whole), tensors in found.items()
    ]


def _rows(plan: EditPlan, tensor: TensorPlan) -> Iterator[tuple[str, int]]:
    """Give the operands that have more or fewer rows than a tensor, and how many."""
    shape = tensor.source.shape
    for term in tensor.terms:
        vector = plan.operands[term.operand].vector
        if vector.kind not in ROWWISE:
            continue
        match vector.delta(term.delta):
            case Stored(delta):
                sides = [delta]
            case Difference(finetuned, base):
                sides = [finetuned] if base.shape == shape else [finetuned, base]
            case _:
                sides = []
        if any(side.shape != shape for side in sides):
            yield vector.name, min(side.shape[0] for side in sides)
