"""The largest elements of a tensor that is read in pieces, exactly, with little memory.

The magnitude of the last element to keep is guessed from a sample, and all elements near it are looked at: one reading
finds it nearly always in 16-bit models, where many elements are equal, two elsewhere. Where not, further readings count
magnitudes by their leading bits, which have the same order, until it is known; there are never more than six.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Largest"]

_SHIFTS = (47, 31, 15, 0)
"""Of a magnitude's 63 bits: 16, 16, 16 and 15 at a time."""

_CLASSES = 1 << 16
_ROOM = 1 << 20
"""Magnitudes that are few enough to be kept in memory and sorted."""

_SAMPLE = 1 << 18
_ODD = 2 * 3 * 5 * 7 * 11 * 13


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
        self._count, self._share = count, count / max(elements, 1)
        self._sample = _Sample(elements)
        self._search: _Near | _ByBits | None = None

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece: float64, finite."""
        sizes = np.abs(values)
        if self._search is None:
            self._search = _Near(sizes, self._count, self._share)
        if not self._sample.is_taken:
            self._sample.add(sizes)
        self._search.scan(sizes)

    def end_scan(self) -> None:
        """Draw the conclusion of one reading."""
        found = self._search.found() if self._search is not None else None
        if found is not None:
            self._least, self._equals = found
            self.is_known, self._search = True, None
        elif not self._sample.is_taken:
            self._search = _Near(self._sample.take(), self._count, self._share)
        elif isinstance(self._search, _Near):
            self._search = _ByBits(self._count)

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Return which elements of the next piece are kept."""
        if self._keeps_all:
            return np.ones(len(values), dtype=bool)
        sizes = np.abs(values)
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


class _Sample:
    """Every so manieth magnitude; the step shares no small factor with the length of a row."""

    def __init__(self, elements: int) -> None:
        self.is_taken = False
        self._step = max(1, -(-elements // _SAMPLE))
        while math.gcd(self._step, _ODD) > 1:
            self._step += 1
        self._next, self._parts = 0, []

    def add(self, sizes: np.ndarray) -> None:
        part = sizes[self._next :: self._step]
        self._next += len(part) * self._step - len(sizes)
        self._parts.append(part.copy())

    def take(self) -> np.ndarray:
        self.is_taken = True
        sizes, self._parts = np.concatenate(self._parts), []
        return sizes


class _Near:
    """Counts what is above a guess and keeps what is near it; equal ones are only counted.

    :param sample: Magnitudes that the guess is made from.
    :param count: How many elements are kept.
    :param share: What share of the tensor that is.
    """

    def __init__(self, sample: np.ndarray, count: int, share: float) -> None:
        size = len(sample)
        rank, slack = (1 - share) * (size - 1), 4 * math.sqrt(size * share * (1 - share)) + 1
        places = [min(size - 1, max(0, round(place))) for place in (rank - slack, rank, rank + slack)]
        least, guess, most = np.partition(sample, places)[places]
        self._least, self._guess, self._most = float(least), float(guess), float(most)
        self._count, self._above, self._equal = count, 0, 0
        self._near: list[np.ndarray] = []
        self._room = _ROOM

    def scan(self, sizes: np.ndarray) -> None:
        above = sizes > self._most
        near = (sizes >= self._least) ^ above
        self._above += int(np.count_nonzero(above))
        number = int(np.count_nonzero(near))
        near &= sizes != self._guess
        different = int(np.count_nonzero(near))
        self._equal += number - different
        self._room -= different
        if different and self._room >= 0:
            self._near.append(sizes[near])
        elif self._room < 0:
            self._near = []

    def found(self) -> tuple[float, int] | None:
        """Return the least magnitude that is kept and how many of that are kept, if it was near."""
        near: np.ndarray = np.sort(np.concatenate([np.empty(0), *self._near]))[::-1]
        self._near = []
        rest = self._count - self._above
        if self._room < 0 or not 0 < rest <= len(near) + self._equal:
            return None
        over = int(np.count_nonzero(near > self._guess))
        if over < rest <= over + self._equal:
            return self._guess, rest - over
        least = near[rest - 1 if rest <= over else rest - 1 - self._equal]
        return float(least), rest - int(np.count_nonzero(near > least)) - (self._equal if rest > over else 0)


class _ByBits:
    """Counts magnitudes by their leading bits, and then those of the chosen class by the bits that follow.

    :param count: How many elements are kept.
    """

    def __init__(self, count: int) -> None:
        self._rest = count  # elements to keep of those whose leading bits are ``_prefix``
        self._level, self._prefix = 0, 0
        self._counts = np.zeros(_CLASSES, dtype=np.int64)

    def scan(self, sizes: np.ndarray) -> None:
        bits, shift = sizes.view(np.int64), _SHIFTS[self._level]
        if self._level:
            bits = bits[bits >> _SHIFTS[self._level - 1] == self._prefix]
        mask = _CLASSES - 1 if shift else _CLASSES // 2 - 1
        self._counts += np.bincount((bits >> shift) & mask, minlength=_CLASSES)

    def found(self) -> tuple[float, int] | None:
        """Return the least magnitude that is kept and how many of that are kept, after the last bits."""
        above = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(above, self._rest))
        chosen = _CLASSES - 1 - place
        self._rest -= int(above[place] - self._counts[chosen])
        self._prefix = self._prefix << (16 if _SHIFTS[self._level] else 15) | chosen
        self._counts[:] = 0
        self._level += 1
        if self._level < len(_SHIFTS):
            return None
        return float(np.int64(self._prefix).view(np.float64)), self._rest
