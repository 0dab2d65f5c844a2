"""Pieces of tensors in a patch: the difference between the bits of the input and those that the output predicts."""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader

__all__ = ["integers", "piece_names", "planes", "prediction", "spans", "unplanes"]

_PIECE = 1 << 20
"""Elements that are compressed together."""

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def spans(tensor: TensorEntry) -> list[tuple[int, int]]:
    """Return the first element of each piece of a tensor, and the one after its last."""
    return list(chunks(tensor.elements, _PIECE))


def piece_names(tensor: TensorEntry) -> list[str]:
    """Return the names that the pieces of a tensor have in a patch."""
    return [f"{start}:{tensor.name}" for start, _ in spans(tensor)]


def integers(reader: TensorReader, tensor: TensorEntry, start: int, end: int) -> np.ndarray:
    """Return the bits of elements of a tensor, as unsigned integers of their size."""
    size = ITEM_SIZES[tensor.dtype]
    return np.frombuffer(reader.read(tensor, start * size, end * size), _UNSIGNED[size])


def prediction(reader: TensorReader, after: TensorEntry, dtype: str, start: int, end: int) -> np.ndarray:
    """Return what the output says about the bits of the input."""
    if after.dtype == dtype:
        return integers(reader, after, start, end)
    size = ITEM_SIZES[after.dtype]
    values = decode(reader.read(after, start * size, end * size), after.dtype)
    return np.frombuffer(encode(values, dtype), _UNSIGNED[ITEM_SIZES[dtype]])


def planes(difference: np.ndarray) -> bytes:
    """Fold the sign into the lowest bit, and put all first bytes together, then all second bytes, and so on."""
    bits = difference.dtype.itemsize * 8
    folded = (difference << 1) ^ (0 - (difference >> (bits - 1)))
    return folded.astype(difference.dtype).view(np.uint8).reshape(-1, difference.dtype.itemsize).T.tobytes()


def unplanes(data: bytes, dtype: np.dtype) -> np.ndarray:
    """Return the differences that ``planes`` was given."""
    by_significance = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    folded = np.ascontiguousarray(by_significance.T).reshape(-1).view(dtype)
    return ((folded >> 1) ^ (0 - (folded & 1))).astype(dtype)
