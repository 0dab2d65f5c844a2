"""Kernels of merge methods, on deltas in float64: what is kept of them, elected signs, sums and ranks.

Each does what a few lines of numpy beside its caller do, to the same bits, in one go over a piece, in buffers that stay
in a core's first cache. The functions follow the rules of ``arithmetic.kernels.linear``; an address of addresses tells
where the pieces of several deltas are.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import array, kernel
from taskarith.arithmetic.kernels.sorting import sort_columns

__all__ = ["elect", "keep_largest", "keep_ranked", "near"]

_BYTE, _8 = np.uint64(255), np.uint64(8)
_MAGNITUDE = np.uint64(0x7FFFFFFFFFFFFFFF)
_FEW = 32
"""Elements of which most often none is near a guess."""


@kernel
def near(values, count, bounds, found, out, room):
    """Count the magnitudes above some bounds and those equal to the guess; write the others between the bounds.

    :param values: Address of float64.
    :param count: Number of elements.
    :param bounds: Address of three float64: the least magnitude that is near, the guess, the largest that is near.
    :param found: Address of two int64, which are added to: how many are above, how many equal the guess.
    :param out: Address of the magnitudes that are near and differ from the guess.
    :param room: How many of them have room there; no more are written.
    :returns: How many there are.
    """
    limits, counts, kept = array(bounds, 3, np.float64), array(found, 2, np.int64), array(out, room, np.float64)
    least, guess, most = limits[0], limits[1], limits[2]
    place = 0
    for start in range(0, count, _FEW):
        n = min(_FEW, count - start)
        part = array(values + 8 * start, n, np.float64)
        above, between, equal = 0, 0, 0
        for i in range(n):
            size = abs(part[i])
            above += size > most
            between += size >= least
            equal += size == guess
        counts[0] += above
        counts[1] += equal
        if between == above + equal:
            continue
        for i in range(n):
            size = abs(part[i])
            if least <= size <= most and size != guess:
                if place < room:
                    kept[place] = size
                place += 1
    return np.int64(place)


@kernel
def keep_largest(values, count, limits, left, weight, out, scratch):
    """Write the values of the largest magnitudes times a weight, and zeros for all others.

    :param values: Address of float64.
    :param count: Number of elements.
    :param limits: Address of two float64: magnitudes above the first are kept, but for those above the second.
    :param left: Address of two int64: how many of those equal to each limit belong to what is above it, from here on.
    :param weight: float64.
    :param out: Address of the result.
    :param scratch: Address of ``8 * BLOCK`` bytes.
    """
    bounds, rest, kept = array(limits, 2, np.float64), array(left, 2, np.int64), array(scratch, BLOCK, np.float64)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        before, after = array(values + 8 * start, n, np.float64), array(out + 8 * start, n, np.float64)
        outer, inner, equal, same = bounds[0], bounds[1], 0, 0
        for i in range(n):
            size = abs(before[i])
            kept[i] = np.float64(size > outer) * np.float64(size <= inner)
            equal += size == outer
            same += size == inner
        if equal > 0 and rest[0] > 0:
            for i in range(n):
                if abs(before[i]) == outer and rest[0] > 0:
                    kept[i] = np.float64(abs(before[i]) <= inner)
                    rest[0] -= 1
        if same > 0 and rest[1] > 0:
            for i in range(n):
                if abs(before[i]) == inner and rest[1] > 0:
                    kept[i] = 0.0
                    rest[1] -= 1
        for i in range(n):
            after[i] = before[i] * kept[i] * weight
    return np.int64(0)


@kernel
def elect(parts, terms, count, elects, shares, order, out, scratch):
    """Add up deltas that are weighted already, all of them or those that have the elected sign.

    Two are added as they come, more in the order of their values. See ``merging.sums.elect``.

    :param parts: Address of the addresses of float64.
    :param terms: How many.
    :param count: Number of elements of each.
    :param elects: 0: all are added; 1: a sign is elected, and zero elects plus; -1: zero elects minus.
    :param shares: Address of a float64 for each part; the sum is divided by the sum of the shares that agree, or by
        nothing where that is zero.
    :param order: Address of int64: the numbers of the parts, the least share first; 0: nothing is divided.
    :param out: Address of the result.
    :param scratch: Address of ``8 * BLOCK`` bytes for each part, and for 2 more buffers, and of as many int64.
    """
    given, there = array(parts, terms, np.int64), array(_place(scratch, terms + 2), terms + 2, np.int64)
    share, first_share = array(shares, terms, np.float64), array(order, terms, np.int64)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        total = array(out + 8 * start, n, np.float64)
        for t in range(terms):
            there[t] = given[t] + 8 * start
        there[terms], there[terms + 1] = _place(scratch, terms), _place(scratch, terms + 1)
        if terms > 2:
            _sort(there, terms, n, scratch)
        plus, divisor = array(there[terms], n, np.float64), array(there[terms + 1], n, np.float64)
        total[:] = 0
        for t in range(terms):
            part = array(there[t], n, np.float64)
            for i in range(n):
                total[i] += part[i]
        if not elects:
            continue
        for i in range(n):
            plus[i] = np.float64(total[i] > 0) + np.float64(total[i] == 0) * np.float64(elects > 0)
        if order:
            divisor[:] = 0
            for number in range(terms):
                t = first_share[number]
                _add_shares(array(given[t] + 8 * start, n, np.float64), plus, n, share[t], divisor)
        total[:] = 0
        for t in range(terms):
            part = array(there[t], n, np.float64)
            for i in range(n):
                total[i] += part[i] * _agrees(part[i], plus[i])
        if order:
            for i in range(n):
                total[i] /= divisor[i] + np.float64(divisor[i] == 0)
    return np.int64(0)


@kernel
def _place(scratch, number):
    """Return the address of a buffer."""
    return scratch + np.int64(number) * 8 * BLOCK


@kernel
def _agrees(value, plus):
    """Return 1 where a value has the sign that was elected, else 0."""
    return np.float64(value > 0) * plus + np.float64(value < 0) * (1.0 - plus)


@kernel
def _add_shares(part, plus, count, share, divisor):
    for i in range(count):
        divisor[i] += _agrees(part[i], plus[i]) * share


@kernel
def _sort(there, terms, count, scratch):
    """Copy a block of each part, and sort each column upwards."""
    for t in range(terms):
        part, copy = array(there[t], count, np.float64), array(_place(scratch, t), count, np.float64)
        for i in range(count):
            copy[i] = part[i]
        there[t] = _place(scratch, t)
    sort_columns(there, terms, count)


@kernel
def keep_ranked(values, rows, columns, numbers, chances, rescale, weight, out, scratch):
    """Write those elements whose random numbers are below the chance that their rank in the row gives them.

    :param values: Address of float64, rows x columns.
    :param rows: How many rows.
    :param columns: Length of each.
    :param numbers: Address of uint32, of the same shape.
    :param chances: Address of float64: of the least magnitude of a row to the largest; of equal ones the later one is
        the larger.
    :param rescale: Whether what is kept is divided by its chance.
    :param weight: What it is multiplied by.
    :param out: Address of the result.
    :param scratch: Address of 32 bytes a column, and of 8 x 256 int64.
    """
    chance = array(chances, columns, np.float64)
    counts = array(scratch + 32 * columns, 8 * 256, np.int64)
    for row in range(rows):
        before = array(values + 8 * row * columns, columns, np.float64)
        after = array(out + 8 * row * columns, columns, np.float64)
        drawn = array(numbers + 4 * row * columns, columns, np.uint32)
        places = array(_ranked(values + 8 * row * columns, columns, scratch, counts), columns, np.int64)
        for rank in range(columns):
            place, likely = places[rank], chance[rank]
            kept = before[place] * np.float64(np.float64(drawn[place]) < likely * 4294967296.0)
            after[place] = (kept / likely if rescale else kept) * weight
    return np.int64(0)


@kernel
def _ranked(values, count, scratch, counts):
    """Return the address of the places of values, from the least magnitude to the largest: a radix sort by bytes."""
    here, there = scratch, scratch + 16 * count
    keys, places = array(here, count, np.uint64), array(here + 8 * count, count, np.int64)
    bits = array(values, count, np.uint64)
    counts[:] = 0
    for i in range(count):
        key = np.uint64(bits[i] & _MAGNITUDE)
        keys[i], places[i] = key, i
        for digit in range(8):
            counts[digit * 256 + np.int64(key & _BYTE)] += 1
            key = np.uint64(key >> _8)
    for digit in range(8):
        before, after = array(here, count, np.uint64), array(there, count, np.uint64)
        come, gone = array(here + 8 * count, count, np.int64), array(there + 8 * count, count, np.int64)
        shift, begin = np.uint64(8 * digit), digit * 256
        if counts[begin + np.int64((before[0] >> shift) & _BYTE)] == count:
            continue  # all have this digit
        total = 0
        for number in range(begin, begin + 256):
            total, counts[number] = total + counts[number], total
        for i in range(count):
            number = begin + np.int64((before[i] >> shift) & _BYTE)
            after[counts[number]], gone[counts[number]] = before[i], come[i]
            counts[number] += 1
        here, there = there, here
    return here + 8 * count
