"""The difference of two stored tensors in float64, by rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from taskarith.arithmetic.torch import TORCH_DTYPES
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader

__all__ = ["DeltaRows"]

_BLOCK = 1 << 20
"""Elements that are read at a time."""


@dataclass(frozen=True)
class DeltaRows:
    """A tensor of both sides, of one shape; its rows run along the last axis."""

    base: TensorEntry
    finetuned: TensorEntry
    reader: TensorReader

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows of the delta in float64; those of further axes follow each other."""
        columns = self.base.shape[-1] if len(self.base.shape) > 1 else 1
        if not columns:
            return torch.zeros(stop - start, 0, dtype=torch.float64)
        before, after = (
            torch.frombuffer(
                self.reader.read(one, *(row * columns * ITEM_SIZES[one.dtype] for row in (start, stop))),
                dtype=TORCH_DTYPES[one.dtype],
            )
            for one in (self.base, self.finetuned)
        )
        return after.to(torch.float64).sub_(before).reshape(stop - start, columns)

    def squares(self) -> float:
        """Return the sum of squares of the delta; not finite if an element is not."""
        columns = self.base.shape[-1] if len(self.base.shape) > 1 else 1
        count, step = self.base.elements // max(columns, 1), max(1, _BLOCK // max(columns, 1))
        spans = ((at, min(at + step, count)) for at in range(0, count, step))
        return math.fsum(float(self.rows(*span).square_().sum()) for span in spans)
