"""Copies of base weights that an adapter holds: whether they are what the base has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError
from taskarith.vectors.vocabulary import first_rows

__all__ = ["check_copies", "has_same_rows"]


def check_copies(path: Path, copies: Mapping[str, TensorEntry], origin: Checkpoint) -> None:
    """PEFT saves the weight of a targeted embedding too, and loads it again: it must be what the base has.

    :param path: The adapter's folder.
    :param copies: By stored tensor.
    :param origin: The model that it was trained on.
    :raises MismatchError: A copy is something else.
    """
    for name, copy in copies.items():
        entry = origin.tensors.get(name)
        if entry is None or entry.shape != copy.shape or not entry.is_float or not _has_same_values(entry, copy):
            raise MismatchError(
                f"{path} holds a copy of {name}, which is not that of {origin.path}",
                "Apply it to the model it was trained on; where that was enlarged or changed, merge it with PEFT.",
            )


def has_same_rows(first: TensorEntry, second: TensorEntry) -> bool:
    """Tell whether two matrices have the same values in the rows that both have."""
    if first.shape[1:] != second.shape[1:] or not (first.is_float and second.is_float):
        return False
    rows = min(first.shape[0], second.shape[0])
    return _has_same_values(first_rows(first, rows), first_rows(second, rows))


def _has_same_values(first: TensorEntry, second: TensorEntry) -> bool:
    from taskarith.arithmetic.wide import decode

    with TensorReader() as reader:
        for start, stop in chunks(first.elements):
            sides = []
            for entry in (first, second):
                size = ITEM_SIZES[entry.dtype]
                sides.append(decode(reader.read(entry, start * size, stop * size), entry.dtype))
            if not (sides[0] == sides[1]).all():
                return False
    return True
