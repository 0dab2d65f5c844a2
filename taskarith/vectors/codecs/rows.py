"""Statistics of the rows of all deltas, in one pass; a row is what runs along the last axis of a matrix."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from taskarith.arithmetic.parallel import Workers
from taskarith.progress import Listener
from taskarith.vectors.codecs.write import Piece, Source, Turns, each_piece

__all__ = ["is_matrix", "row_lengths", "row_sizes"]


def is_matrix(shape: Sequence[int]) -> bool:
    """Return whether a tensor has rows: two axes or more, and elements."""
    return len(shape) >= 2 and math.prod(shape) > 0


def row_lengths(columns: int, start: int, stop: int) -> np.ndarray:
    """Return how many of the elements ``start`` to ``stop`` each row has, from the first that has any."""
    rows = np.arange(start // columns, -(-stop // columns))
    return np.minimum((rows + 1) * columns, stop) - np.maximum(rows * columns, start)


def row_sizes(source: Source, dtype: str, measure: str, workers: Workers, listener: Listener) -> dict[str, np.ndarray]:
    """Return for each matrix a number a row, in float64.

    :param source: Where base and fine-tune come from.
    :param dtype: Of the deltas: F32 or F64.
    :param measure: ``largest`` (absolute value), ``sum`` (of absolute values) or ``squares`` (their sum).
    :param workers: Who calculates.
    :param listener: Receives progress updates.
    """
    names = [name for name in sorted(source.shapes) if is_matrix(source.shapes[name])]
    found = {name: np.zeros(math.prod(source.shapes[name][:-1])) for name in names}
    turns = Turns()

    def do(piece: Piece, stop: threading.Event) -> None:
        values = np.abs(piece.values().astype(np.float64))
        if measure == "squares":
            values *= values
        columns = source.shapes[piece.name][-1]
        lengths = row_lengths(columns, piece.start, piece.stop)
        collect = np.maximum if measure == "largest" else np.add
        part = collect.reduceat(values, np.cumsum(lengths) - lengths)
        first = piece.start // columns
        with turns.of(piece.number, stop) as goes_on:  # so that the order of a sum is always the same
            if goes_on:
                rows = found[piece.name][first : first + len(part)]
                collect(rows, part, out=rows)

    each_piece(source, names, dtype, do, listener, "measuring rows", workers)
    return found
