"""The largest elements of a tensor that is read in pieces, exactly, with little memory.

Magnitudes of float64 have the order of their bits. A first reading counts them by their leading bits; further readings
look into the one class that holds the last element to keep, until its value is known. Nearly always two readings do.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Largest"]

_SHIFTS = (47, 31, 15, 0)
"""Of a magnitude's 63 bits: 16, 16, 16 and 15 at a time."""

_ROOM = 1 << 18
"""Distinct magnitudes of one class that are kept in memory."""

_SIGNLESS = np.int64(0x7FFF_FFFF_FFFF_FFFF)


class Largest:
    """Finds the ``count`` elements of largest magnitude; of equal ones those that come first.

    Feed all pieces of the tensor, in order, to ``scan``, then call ``end_scan``; begin again until ``is_known``. After
    that ``mask`` takes the same pieces in the same order.

    :param count: How many elements are kept.
    :param elements: How many the tensor has.
    """

    def __init__(self, count: int, elements: int) -> None:
        self.is_known = not 0 < count < elements
        self._keeps_all = count >= elements
        self._least, self._equals = np.inf, 0  # magnitude of the last one kept; how many of that magnitude are kept
        self._rest = count  # elements to keep of those whose leading bits are ``_prefix``
        self._level, self._prefix = 0, 0
        self._begin()

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece: float64, finite."""
        bits = values.view(np.int64) & _SIGNLESS
        if self._level:
            bits = bits[bits >> _SHIFTS[self._level - 1] == self._prefix]
            self._collect(bits)
        shift = _SHIFTS[self._level]
        width = 16 if shift else 15
        classes = bits >> shift if not self._level else (bits >> shift) & ((1 << width) - 1)
        self._counts += np.bincount(classes, minlength=1 << 16)

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        if self._is_collecting and self._level:
            self._compact()
        if self._is_collecting and self._level:
            self._settle(self._found[::-1], self._numbers[::-1])
            return
        above = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(above, self._rest))
        self._rest -= int(above[place - 1]) if place else 0
        width = 15 if _SHIFTS[self._level] == 0 else 16
        chosen = len(self._counts) - 1 - place
        self._prefix = self._prefix << width | chosen if self._level else chosen
        self._level += 1
        if self._level == len(_SHIFTS):
            self._know(self._prefix, self._rest)
        else:
            self._begin()

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Return which elements of the next piece are kept."""
        sizes = np.abs(values)
        if self._keeps_all:
            return np.ones(len(values), dtype=bool)
        kept = sizes > self._least
        if self._equals:
            equal = sizes == self._least
            number = int(np.count_nonzero(equal))
            if number <= self._equals:
                kept |= equal
            else:
                kept[np.flatnonzero(equal)[: self._equals]] = True
            self._equals -= min(number, self._equals)
        return kept

    def _begin(self) -> None:
        self._counts = np.zeros(1 << 16, dtype=np.int64)
        self._is_collecting = True
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._found, self._numbers = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    def _collect(self, bits: np.ndarray) -> None:
        """Keep the distinct magnitudes and how often they occur, as long as they are few."""
        if self._is_collecting:
            self._waiting.append(np.unique(bits, return_counts=True))
            if sum(len(found) for found, _ in self._waiting) > _ROOM:
                self._compact()

    def _compact(self) -> None:
        both = [(self._found, self._numbers), *self._waiting]
        self._waiting = []
        self._found, where = np.unique(np.concatenate([found for found, _ in both]), return_inverse=True)
        numbers = np.concatenate([numbers for _, numbers in both])
        self._numbers = np.bincount(where, weights=numbers, minlength=len(self._found)).astype(np.int64)
        if len(self._found) > _ROOM:
            self._is_collecting = False
            self._found, self._numbers = self._found[:0], self._numbers[:0]

    def _settle(self, found: np.ndarray, numbers: np.ndarray) -> None:
        """Pick the last one kept among all magnitudes of its class, the largest first."""
        above = np.cumsum(numbers)
        place = int(np.searchsorted(above, self._rest))
        self._know(int(found[place]), self._rest - (int(above[place - 1]) if place else 0))

    def _know(self, bits: int, equals: int) -> None:
        self._least, self._equals = float(np.int64(bits).view(np.float64)), equals
        self.is_known = True
