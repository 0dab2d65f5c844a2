"""Which tensors are buffers: calculated when a model is built, never trained, and saved by some programs only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taskarith.architecture.names import (
    FREQUENCIES,
    MARKS,
    MASK,
    MASKED_BIAS,
    NO_BIAS,
    POSITION_TABLES,
    QUANTISED,
)
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader

if TYPE_CHECKING:
    import numpy as np

__all__ = ["is_buffer"]

_NEVER = -1e4
"""What masks add to a score that is not to count, at most; the largest is that of float16."""


def is_buffer(tensor: TensorEntry, reader: TensorReader) -> bool:
    """Tell whether a tensor is a buffer; a weight that is learned never is.

    Integers and booleans are buffers, since nothing trains them, unless they are called like quantised weights. Floats
    are if they are called like one of the few kinds that transformers has had (rotary frequencies, causal masks, what
    masks add) and have what these have: shape and, of masks, values.
    """
    if not tensor.is_float:
        is_number = tensor.dtype == "BOOL" or tensor.dtype[0] in "IU"
        return (is_number and not QUANTISED.fullmatch(tensor.name)) or bool(POSITION_TABLES.fullmatch(tensor.name))
    if FREQUENCIES.fullmatch(tensor.name):
        return len(tensor.shape) == 1
    if MASK.fullmatch(tensor.name):
        return _is_causal(tensor, reader)
    if MASKED_BIAS.fullmatch(tensor.name):
        return tensor.elements == 1 and bool(_values(tensor, reader, 0, 1)[0] <= _NEVER)
    if NO_BIAS.fullmatch(tensor.name):
        return not _values(tensor, reader, 0, tensor.elements).any()
    if MARKS.fullmatch(tensor.name):
        return tensor.elements == 1
    return bool(POSITION_TABLES.fullmatch(tensor.name))


def _is_causal(tensor: TensorEntry, reader: TensorReader) -> bool:
    """Tell whether a tensor is a square mask that hides what comes later: 1 and 0, or 0 and a large negative number."""
    shape = tensor.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2 or math.prod(shape[:-2]) != 1:
        return False
    import numpy as np  # late: hardly any model has such buffers

    size, hidden = shape[-1], None
    for row in range(size):
        values = _values(tensor, reader, row * size, (row + 1) * size)
        later, earlier = values[row + 1 :], values[: row + 1]
        hidden = float(values[-1]) if hidden is None else hidden
        seen = 1.0 if hidden == 0 else 0.0
        is_mask = hidden == 0 or hidden <= _NEVER
        if not is_mask or earlier[-1] != seen or (later != hidden).any() or not np.isin(earlier, (seen, hidden)).all():
            return False
    return True


def _values(tensor: TensorEntry, reader: TensorReader, start: int, stop: int) -> np.ndarray:
    from taskarith.arithmetic.encoding import decode

    size = ITEM_SIZES[tensor.dtype]
    return decode(reader.read(tensor, start * size, stop * size), tensor.dtype)
