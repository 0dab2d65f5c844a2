"""Sparse task vectors: the entries that are kept, a bit for each entry that says whether, and zeros elsewhere."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.parallel import Workers
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.errors import MismatchError
from taskarith.progress import Listener
from taskarith.vectors.codecs.block_file import PackedFile, join_parts, split_parts, unpack
from taskarith.vectors.codecs.top_k import Selection
from taskarith.vectors.codecs.write import Piece, Source
from taskarith.vectors.vector import Packed

__all__ = ["Sparse", "SparseVector"]


class Sparse:
    """Packs a part of the entries of all deltas; see ``pack.Form``.

    :param selection: Which.
    :param dtype: Dtype of their values, as safetensors names it.
    :param options: As the user gave them.
    """

    kind = "sparse"
    is_lossy = True

    def __init__(self, selection: Selection, dtype: str, options: dict[str, Any]) -> None:
        self._selection, self._dtype, self.options = selection, dtype, options
        self.dtype = "F64" if dtype == "F64" else "F32"

    def prepare(self, source: Source, names: Sequence[str], workers: Workers, listener: Listener) -> None:
        """Find out which entries are kept."""
        self._selection.prepare(source, names, self.dtype, workers, listener)

    def most_bytes(self, source: Source) -> int:
        """Return how many bytes all blocks have at most: a bit for each entry, and the values that are kept."""
        shapes = source.shapes.values()
        kept = self._selection.count(list(shapes))
        return sum(-(-math.prod(shape) // 8) for shape in shapes) + kept * ITEM_SIZES[self._dtype]

    def decoded(self, name: str) -> str:
        """Return the dtype of the values."""
        del name
        return self._dtype

    def encode(self, piece: Piece, stop: threading.Event) -> tuple[bytes, dict[str, float]]:
        """Return the bytes of a block: the compressed bits, and the planes of the values; nothing if none is kept.

        :raises MismatchError: A value overflows its dtype.
        """
        kept, values = self._selection.of(piece, stop), piece.values().astype(np.float64)
        if not piece.is_finite:
            return b"", {"kept": 0, "error_squares": 0.0}  # the run will be refused
        stored = encode(values[kept], self._dtype)
        rounded = decode(stored, self._dtype)
        if not np.isfinite(rounded).all():
            raise MismatchError(
                f"a delta of {piece.name} overflows {self._dtype}", "Leave out --dtype: values are kept in float32."
            )
        error = values.copy()
        error[kept] -= rounded
        sums = {"kept": len(rounded), "error_squares": float(np.square(error).sum())}
        if not len(rounded):
            return b"", sums
        size = ITEM_SIZES[self._dtype]
        planes = np.frombuffer(stored, np.uint8).reshape(-1, size).T
        mask = np.packbits(kept, bitorder="little").tobytes()
        return join_parts([mask, *(plane.tobytes() for plane in planes)]), sums


class SparseVector(PackedFile):
    """A task vector file most of whose entries are zero.

    :param path: A ``.safetensors`` file written by ``taskarith extract --top-k`` or ``--rows``.
    :raises VectorError: It is not such a vector, or its header is broken.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Sparse.kind)

    def delta(self, tensor: str) -> Packed:
        """Return how one delta is decoded."""
        size = ITEM_SIZES[self.dtypes[tensor]]
        return self.packed(tensor, lambda data, _, count: _SparseBlock(data, count, size))


class _SparseBlock:
    def __init__(self, data: memoryview, count: int, size: int) -> None:
        self._type = np.dtype(f"<u{size}")
        if not data:
            self._positions, self._values = np.zeros(0, np.int64), np.zeros(0, self._type)
            return
        mask, *parts = split_parts(data, size + 1)
        flags = np.unpackbits(np.frombuffer(unpack(mask, (count + 7) // 8), np.uint8), bitorder="little")
        self._positions = np.flatnonzero(flags.view(bool))
        kept = len(self._positions)
        if kept and self._positions[-1] >= count:
            raise ValueError("a position is outside the tensor")
        planes = np.zeros((kept, size), np.uint8)
        for index, part in enumerate(parts):
            if part:
                planes[:, index] = np.frombuffer(unpack(part, kept), np.uint8)
        self._values = planes.view(self._type)[:, 0]

    def read(self, start: int, room: memoryview, against: memoryview | None) -> None:
        """Decode entries of the delta."""
        del against
        to = np.frombuffer(room, self._type)
        to[:] = 0
        first, last = np.searchsorted(self._positions, (start, start + len(to)))
        to[self._positions[first:last] - start] = self._values[first:last]
