"""The largest elements of a tensor that is read in pieces, exactly, with little memory.

The magnitude of the last element to keep is guessed from a sample, and all elements near it are looked at: one reading
finds it nearly always in 16-bit models, where many elements are equal, two elsewhere. Where not, further readings count
magnitudes by their leading bits, which have the same order, until it is known; there are never more than six.
"""

from __future__ import annotations

import math

import numpy as np

from taskarith.arithmetic.kernels.available import address, load_or_none
from taskarith.arithmetic.kernels.layout import BLOCK

__all__ = ["KthLargest", "Largest", "keep_largest", "largest_rows"]

_DIGIT = 16
_DIGITS = 1 << _DIGIT
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
        self._left = 0  # how many of these are kept from here on
        self._count, self._share = count, count / max(elements, 1)
        self._sample = _Sample(elements)
        self._search: _Near | KthLargest | None = None

    def scan(self, values: np.ndarray) -> None:
        """Look at the next piece: float64, finite."""
        if isinstance(self._search, KthLargest):
            self._search.add(self._search.histogram(np.abs(values).view(np.uint64)))
            return
        if self._search is None:
            self._search = _Near(np.abs(values), self._count, self._share)
        if not self._sample.is_taken:
            self._sample.add(values)
        self._search.scan(values)

    def end_scan(self) -> None:
        """Finish one pass."""
        found = self._found()
        if found is not None:
            self._least, self._equals = found
            self.is_known, self._search = True, None
            self.rewind()
        elif not self._sample.is_taken:
            self._search = _Near(self._sample.take(), self._count, self._share)
        elif isinstance(self._search, _Near):
            self._search = KthLargest(self._count, 64)

    def _found(self) -> tuple[float, int] | None:
        if isinstance(self._search, KthLargest):
            self._search.narrow()
            pattern = np.uint64(self._search.prefix)
            return (float(pattern.view(np.float64)), self._search.rest) if self._search.is_known else None
        return None if self._search is None else self._search.found()

    def rewind(self) -> None:
        """Let ``mask`` begin again at the first piece."""
        self._left = self._equals

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Return which elements of the next piece are kept."""
        if self._keeps_all:
            return np.ones(len(values), dtype=bool)
        sizes = np.abs(values)
        kept = sizes > self._least
        if self._left:
            equal = sizes == self._least
            number = int(np.count_nonzero(equal))
            if number <= self._left:
                kept |= equal
            else:
                kept[np.flatnonzero(equal)[: self._left]] = True
            self._left -= min(number, self._left)
        return kept

    def limit(self) -> tuple[float, int]:
        """Return the magnitude above which all are kept, and how many equal ones are kept from here on."""
        return (-1.0, 0) if self._keeps_all else (self._least, self._left)

    def take(self, equals: int) -> None:
        """Note how many equal ones are kept from here on."""
        self._left = equals


def keep_largest(values: np.ndarray, outer: Largest, inner: Largest, weight: float, out: np.ndarray) -> np.ndarray:
    """Return the next piece times a weight, with zeros for what is not among the largest, or among the very largest.

    :param values: float64, one after the other.
    :param outer: What is kept.
    :param inner: What is not kept of it.
    :param weight: What is kept is multiplied by it.
    :param out: Memory for the result.
    """
    kernels = load_or_none("merge")
    if kernels is None:
        return np.multiply(values * (outer.mask(values) & ~inner.mask(values)), weight, out=out)
    (least, equals), (most, others) = outer.limit(), inner.limit()
    limits, left, scratch = np.array([least, most]), np.array([equals, others], np.int64), np.empty(BLOCK)
    where = address(values), len(values), limits.ctypes.data, left.ctypes.data
    kernels.keep_largest(*where, weight, address(out), scratch.ctypes.data)
    outer.take(int(left[0]))
    inner.take(int(left[1]))
    return out


class _Sample:
    """Every n-th magnitude; the step shares no small factor with the length of a row."""

    def __init__(self, elements: int) -> None:
        self.is_taken = False
        self._step = max(1, -(-elements // _SAMPLE))
        while math.gcd(self._step, _ODD) > 1:
            self._step += 1
        self._next, self._parts = 0, []

    def add(self, values: np.ndarray) -> None:
        part = np.abs(values[self._next :: self._step])
        self._next += len(part) * self._step - len(values)
        self._parts.append(part)

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
        self._found = np.empty(0)

    def scan(self, values: np.ndarray) -> None:
        kernels = load_or_none("merge")
        if kernels is None:
            return self._scan_with_numpy(np.abs(values))
        if len(self._found) < len(values):
            self._found = np.empty(len(values))
        bounds, counts = np.array([self._least, self._guess, self._most]), np.zeros(2, np.int64)
        where = (each.ctypes.data for each in (bounds, counts, self._found))
        number = kernels.near(address(values), len(values), *where, len(self._found))
        self._above += int(counts[0])
        self._equal += int(counts[1])
        return self._keep(self._found[:number].copy())

    def _scan_with_numpy(self, sizes: np.ndarray) -> None:
        above = sizes > self._most
        near = (sizes >= self._least) ^ above
        self._above += int(np.count_nonzero(above))
        number = int(np.count_nonzero(near))
        near &= sizes != self._guess
        different = sizes[near]
        self._equal += number - len(different)
        self._keep(different)

    def _keep(self, different: np.ndarray) -> None:
        self._room -= len(different)
        if len(different) and self._room >= 0:
            self._near.append(different)
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


class KthLargest:
    """Finds the k-th largest of unsigned integers, such as the bits of magnitudes, in passes over all of them.

    The first pass counts them by their first 16 bits, which says what these are of the k-th one; the next pass counts
    by 16 bits more those that begin so, until all bits are known. Add the ``histogram`` of everything, then ``narrow``.

    :param count: k, at most the number of integers.
    :param bits: Of each integer: 32 or 64.
    """

    def __init__(self, count: int, bits: int) -> None:
        self.rest = count
        """How many of the k largest begin with ``prefix``; in the end, how many are equal to it."""
        self.prefix = 0
        self._shift = bits - _DIGIT
        self._counts = np.zeros(_DIGITS, np.int64)

    @property
    def is_known(self) -> bool:
        """Whether ``prefix`` is the k-th largest."""
        return self._shift < 0

    def histogram(self, values: np.ndarray) -> np.ndarray:
        """Count values by their next 16 bits; this may be called by several threads at once."""
        shift = self._shift
        values = values[values >> (shift + _DIGIT - 1) >> 1 == self.prefix]
        return np.bincount((values >> shift & (_DIGITS - 1)).astype(np.int64), minlength=_DIGITS)

    def add(self, histogram: np.ndarray) -> None:
        """Add what was counted."""
        self._counts += histogram

    def narrow(self) -> None:
        """Finish one pass."""
        from_top = np.cumsum(self._counts[::-1])
        step = int(np.searchsorted(from_top, self.rest))
        digit = _DIGITS - 1 - step
        self.rest -= int(from_top[step] - self._counts[digit])
        self.prefix = self.prefix << _DIGIT | digit
        self._shift -= _DIGIT
        self._counts[:] = 0


def largest_rows(squares: np.ndarray, count: int) -> np.ndarray:
    """Return which rows are the ``count`` largest: a mask; of equal ones those that come first.

    :param squares: Of the norm of each row.
    :param count: How many rows.
    """
    kept = np.zeros(len(squares), bool)
    kept[np.argsort(-squares, kind="stable")[:count]] = True
    return kept
