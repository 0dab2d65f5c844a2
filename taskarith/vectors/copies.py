"""Whether two stored tensors, or the rows that both have, hold the same values."""

from __future__ import annotations

from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.vectors.vocabulary import first_rows

__all__ = ["has_same_rows", "has_same_values"]


def has_same_values(first: TensorEntry, second: TensorEntry) -> bool:
    """Tell whether two float tensors have the same shape and the same values, whatever their dtypes."""
    from taskarith.arithmetic.encoding import decode

    if first.shape != second.shape or not (first.is_float and second.is_float):
        return False
    with TensorReader() as reader:
        for start, stop in chunks(first.elements):
            sides = []
            for entry in (first, second):
                size = ITEM_SIZES[entry.dtype]
                sides.append(decode(reader.read(entry, start * size, stop * size), entry.dtype))
            if not (sides[0] == sides[1]).all():
                return False
    return True


def has_same_rows(first: TensorEntry, second: TensorEntry) -> bool:
    """Tell whether two matrices have the same values in the rows that both have."""
    rows = min(first.shape[0], second.shape[0])
    return has_same_values(first_rows(first, rows), first_rows(second, rows))
