"""Which entries of a task vector are kept: exactly the k largest, or the rows with the largest norms.

The k-th magnitude is found to the bit: the bit patterns of magnitudes are in the order of these.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from taskarith.arithmetic.parallel import Workers
from taskarith.arithmetic.selection import KthLargest, largest_rows
from taskarith.progress import Listener
from taskarith.vectors.codecs.rows import is_matrix, row_sizes
from taskarith.vectors.codecs.write import Piece, Source, Turns, each_piece

__all__ = ["LargestEntries", "LargestRows", "Selection"]


class LargestEntries:
    """Keeps the share of entries with the largest magnitudes; of equal ones the first by tensor name and position.

    :param density: The share, at most 1; at least one entry is kept.
    :param per_tensor: Whether every tensor keeps that share, or all of them together.
    """

    def __init__(self, density: float, per_tensor: bool) -> None:
        self.density, self.per_tensor = density, per_tensor

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return how many entries are kept of all deltas."""
        sizes = [math.prod(shape) for shape in shapes if math.prod(shape)]
        groups = sizes if self.per_tensor else [sum(sizes)] * bool(sizes)
        return sum(_count(self.density, size) for size in groups)

    def prepare(self, source: Source, names: Sequence[str], dtype: str, workers: Workers, listener: Listener) -> None:
        """Find the least magnitude that is kept, and how many entries of just this one are."""
        full = [name for name in names if math.prod(source.shapes[name])]
        groups = [[name] for name in full] if self.per_tensor else [full] * bool(full)
        self._group = {name: number for number, group in enumerate(groups) for name in group}
        self._turns = Turns()
        found = [_threshold(source, group, self.density, dtype, workers, listener) for group in groups]
        self._least = [least for least, _ in found]
        self._left = [ties for _, ties in found]

    def of(self, piece: Piece, stop: threading.Event) -> np.ndarray:
        """Return for each entry of a piece whether it is kept."""
        group, sizes = self._group[piece.name], _magnitudes(piece)
        least = sizes.dtype.type(self._least[group])
        kept = sizes > least
        ties = np.flatnonzero(sizes == least)
        with self._turns.of(piece.number, stop):
            taken = min(len(ties), self._left[group])
            self._left[group] -= taken
        kept[ties[:taken]] = True
        return kept


class LargestRows:
    """Keeps the share of rows of each matrix with the largest norms, and all of what is not a matrix.

    :param share: At most 1; at least one row of each matrix is kept.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def count(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Return how many entries are kept of all deltas."""
        return sum(
            _count(self.share, math.prod(shape[:-1])) * shape[-1] if is_matrix(shape) else math.prod(shape)
            for shape in shapes
        )

    def prepare(self, source: Source, names: Sequence[str], dtype: str, workers: Workers, listener: Listener) -> None:
        """Find the rows; of equal ones the first are kept."""
        del names
        self._columns = {name: shape[-1] for name, shape in source.shapes.items() if is_matrix(shape)}
        self._rows = {}
        for name, squares in row_sizes(source, dtype, "squares", workers, listener).items():
            self._rows[name] = largest_rows(squares, _count(self.share, len(squares)))

    def of(self, piece: Piece, stop: threading.Event) -> np.ndarray:
        """Return for each entry of a piece whether it is kept."""
        del stop
        if piece.name not in self._columns:
            return np.ones(piece.stop - piece.start, bool)
        return self._rows[piece.name][np.arange(piece.start, piece.stop) // self._columns[piece.name]]


Selection = LargestEntries | LargestRows


def _count(share: float, whole: int) -> int:
    """Return how many of some things a share is."""
    return max(1, round(share * whole))


def _magnitudes(piece: Piece) -> np.ndarray:
    """Return unsigned integers in the order of the magnitudes."""
    values = piece.values()
    bits = values.itemsize * 8
    return values.view(f"<u{values.itemsize}") & np.array((1 << (bits - 1)) - 1, f"<u{values.itemsize}")


def _threshold(
    source: Source, names: Sequence[str], density: float, dtype: str, workers: Workers, listener: Listener
) -> tuple[int, int]:
    """Return the bit pattern of the k-th magnitude, and how many of the k entries have it."""
    count = _count(density, sum(math.prod(source.shapes[name]) for name in names))
    search, lock = KthLargest(count, 64 if dtype == "F64" else 32), threading.Lock()

    def do(piece: Piece, stop: threading.Event) -> None:
        del stop
        part = search.histogram(_magnitudes(piece))
        with lock:
            search.add(part)

    while not search.is_known:
        each_piece(source, names, dtype, do, listener, "finding the largest", workers)
        search.narrow()
    return search.prefix, search.rest
