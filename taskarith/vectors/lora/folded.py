"""Deltas of adapters that are calculated from the base while they are read: DoRA, and rows of trained tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from taskarith.arithmetic.calculator import LowRank
from taskarith.arithmetic.encoding import decode
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader

__all__ = ["DoraStream", "RowsStream"]

_BLOCK = 1 << 16
"""Elements that are calculated at a time, in whole rows; how they are read changes no bit."""


class _RowStream(ABC):
    """Gives out float64 elements that are calculated in blocks of whole rows."""

    def __init__(self, rows: int, columns: int, fingerprint: str) -> None:
        self._rows, self._columns, self._fingerprint = rows, columns, fingerprint
        self._step = max(1, _BLOCK // max(columns, 1))
        self._position, self._start = 0, 0
        self._ready = np.empty(0)

    def read_into(self, out: memoryview, base: memoryview | None) -> None:
        """Calculate the next elements into all of ``out``; the base is read here."""
        del base
        values, done = np.frombuffer(out, np.float64), 0
        while done < len(values):
            offset = self._position - self._start
            if not 0 <= offset < len(self._ready):
                first = self._position // self._columns // self._step * self._step
                self._start, offset = first * self._columns, self._position - first * self._columns
                self._ready = self._calculate(first, min(first + self._step, self._rows)).ravel()
            count = min(len(values) - done, len(self._ready) - offset)
            values[done : done + count] = self._ready[offset : offset + count]
            done, self._position = done + count, self._position + count

    def skip(self, elements: int) -> None:
        """Leave out elements."""
        self._position += elements

    def fingerprint(self) -> str:
        """Return the fingerprint of what is stored."""
        return self._fingerprint

    @abstractmethod
    def _calculate(self, first: int, last: int) -> np.ndarray:
        """Return whole rows, float64."""


class DoraStream(_RowStream):
    """The delta of a DoRA weight: ``m (W + scale B A) / |W + scale B A| - W``.

    :param base: W, rows x columns.
    :param factors: ``scale * left @ right`` is added to it.
    :param magnitude: float64: m, one for each row, or for each column.
    :param is_by_column: Whether outputs are columns; their norms take a pass over W before the first element.
    :param fingerprint: Fingerprint of what is stored.
    :param reader: Reads W.
    """

    def __init__(
        self,
        base: TensorEntry,
        factors: LowRank,
        magnitude: np.ndarray,
        is_by_column: bool,
        fingerprint: str,
        reader: TensorReader,
    ) -> None:
        super().__init__(base.shape[0], base.shape[1], fingerprint)
        self._base, self._factors, self._reader = base, factors, reader
        self._magnitude, self._growth = magnitude, None
        if is_by_column:
            total = np.zeros(self._columns)
            for first in range(0, self._rows, self._step):
                total += np.sum(self._sides(first, min(first + self._step, self._rows))[1] ** 2, axis=0)
            self._growth = self._divide(magnitude, total)

    def _calculate(self, first: int, last: int) -> np.ndarray:
        before, after = self._sides(first, last)
        growth = self._growth
        if growth is None:
            growth = self._divide(self._magnitude[first:last], np.sum(after**2, axis=1))[:, None]
        return growth * after - before

    def _sides(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of W and of W + scale B A, each element summed over the rank in one order."""
        before, factors = _read_rows(self._base, first, last, self._reader), self._factors
        total = np.zeros(before.shape)
        for index in range(len(factors.right)):
            total += factors.left[first:last, index : index + 1] * factors.right[index]
        return before, before + factors.scale * total

    @staticmethod
    def _divide(magnitude: np.ndarray, squares: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # a weight of zeros has no direction: not finite
            return magnitude / np.sqrt(squares)


class RowsStream(_RowStream):
    """Differences of a few rows to the base; zero elsewhere.

    :param base: What the other rows are.
    :param numbers: Of the rows.
    :param values: float64, rows x columns: what they are after training.
    :param fingerprint: Fingerprint of what is stored.
    :param reader: Reads the base.
    """

    def __init__(
        self, base: TensorEntry, numbers: Sequence[int], values: np.ndarray, fingerprint: str, reader: TensorReader
    ) -> None:
        super().__init__(base.shape[0], base.shape[1], fingerprint)
        self._deltas = {
            number: row - _read_rows(base, number, number + 1, reader)[0]
            for number, row in zip(numbers, values, strict=True)
        }

    def _calculate(self, first: int, last: int) -> np.ndarray:
        deltas = np.zeros((last - first, self._columns))
        for number in self._deltas.keys() & set(range(first, last)):
            deltas[number - first] = self._deltas[number]
        return deltas


def _read_rows(entry: TensorEntry, first: int, last: int, reader: TensorReader) -> np.ndarray:
    size = entry.shape[1] * ITEM_SIZES[entry.dtype]
    return decode(reader.read(entry, first * size, last * size), entry.dtype).reshape(last - first, -1)
