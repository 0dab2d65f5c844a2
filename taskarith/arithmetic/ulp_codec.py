"""Changes between two arrays of floats as a stream of bits, and back to the bit: ``packing`` and ``unpacking``.

A block of them is laid out so, little-endian: three numbers, as ``packing.pack`` has them (int16, uint8, uint8), and a
uint32, the number of entries; for each run of ``RUN`` elements a uint16, how many bits it has in the stream, then one
for each with how many entries it has; the entries, uint16; the stream.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from typing import Any

from taskarith.arithmetic.kernels.available import load_or_none
from taskarith.checkpoints.header import FLOAT_DTYPES, ITEM_SIZES

__all__ = ["RUN", "Folded", "fold", "most_folded"]

RUN = 512
"""Elements in a row that begin at a known place of the stream; ``compiled.BLOCK``."""

_MOST_BITS = {"F64": 56, "F32": 32, "F16": 14, "BF16": 14}
"""64 bits from the byte on in which they begin hold all of them, or four times as many of 16-bit elements."""

_REACH = RUN * 56 // 8 + 8
"""Bytes of the stream that are read for a run at most, whatever the base."""

_EXPONENT_BITS = {"F64": 11, "F32": 8, "F16": 5, "BF16": 8}
_ENTRY_BITS, _PLACE_BITS = 7, 9
_HEAD = struct.Struct("<hBBI")
_MISFIT = "its changes do not fit each other"


class Folded:
    """The changes of one block of elements, from which the fine-tune's elements are worked out.

    :param data: What ``fold`` returned; writable memory is not copied.
    :param dtype: Of the elements.
    :param count: Number of elements of the block.
    :raises ValueError: The parts do not fit each other.
    """

    def __init__(self, data: bytes | bytearray | memoryview, dtype: str, count: int) -> None:
        view, runs = memoryview(data), -(-count // RUN)
        if len(view) < _HEAD.size:
            raise ValueError(_MISFIT)
        if view.readonly:
            view = memoryview(bytearray(view))
        self.dtype, self.count, self._size = dtype, count, ITEM_SIZES[dtype]
        *widths, self._rest = _HEAD.unpack_from(view)
        self._widths = widths
        counts = _HEAD.size + 2 * runs
        entries = counts + 2 * runs
        begin = entries + 2 * self._rest
        if begin > len(view) or not widths[1] <= widths[2] <= _MOST_BITS[dtype]:
            raise ValueError(_MISFIT)
        self._lengths, self._counts, self._entries = (
            view[_HEAD.size : counts],
            view[counts:entries],
            view[entries:begin],
        )
        self._stream, first = view[begin:], _address(view)
        cut = max(0, len(self._stream) - _REACH)
        self._tail = bytes(self._stream[cut:]) + bytes(_REACH)
        parts = [first + begin, len(self._stream), cut, _bytes_at(self._tail), *widths, count]
        parts += [first + _HEAD.size, first + counts, first + entries, self._rest]
        self._parts, self._state, self._at = array("q", parts), array("q", bytes(32)), 0

    def read(self, start: int, room: memoryview, before: memoryview) -> None:
        """Write elements of the fine-tune into all of ``room``.

        :param start: Number of the first one in the block: that after the last one that was read, or a multiple of
            ``RUN``.
        :param room: Bytes for whole elements.
        :param before: The bytes of the same elements of the base.
        :raises ValueError: They are not all in the block, or cannot be found.
        """
        count, kernels = len(room) // self._size, load_or_none("exact")
        if not 0 <= start <= start + count <= self.count or len(before) != len(room):
            raise ValueError("it has no such elements")
        if not count:
            return
        if start != self._at:
            self._seek(start)
        if kernels is None:
            fits = self._with_numpy(start, room, before)
        else:
            code, parts, state = FLOAT_DTYPES.index(self.dtype), _pointer(self._parts), _pointer(self._state)
            fits = kernels.unfold(_address(before), code, parts, state, start, count, _address(room))
        self._at, (_, bits, entry, _) = start + count, self._state
        is_used_up = entry == self._rest and (bits + 7) // 8 == len(self._stream)
        if not fits or (self._at == self.count and not is_used_up):
            raise ValueError(_MISFIT)

    def _seek(self, start: int) -> None:
        if start % RUN:
            raise ValueError(f"it can be read from its beginning, or from a multiple of {RUN} elements on")
        before = 2 * (start // RUN)
        bits, entry = (sum(_numbers(part[:before])) for part in (self._lengths, self._counts))
        self._state = array("q", [0, bits, entry, 0])

    def _with_numpy(self, start: int, room: memoryview, before: memoryview) -> bool:
        """Do what ``unfold`` does."""
        import numpy as np

        kind, end = np.dtype(f"<u{self._size}"), start + len(room) // self._size
        origin, elements = np.frombuffer(before, kind), np.arange(start, end)
        lengths, counts = (np.frombuffer(part, "<u2").astype(np.int64) for part in (self._lengths, self._counts))
        if (lengths.sum() + 7) // 8 > len(self._stream) or counts.sum() > self._rest:
            return False
        entries = np.frombuffer(self._entries, "<u2").astype(np.int64)[: counts.sum()]
        places = np.repeat(np.arange(len(counts)), counts) * RUN + (entries & (RUN - 1))
        if (np.diff(places) < 0).any() or (places[-1:] >= self.count).any():
            return False
        width = np.clip(self._widths[0] - _exponents(origin, self.dtype), *self._widths[1:])
        in_stream = np.where(lengths[elements // RUN] == 0, 0, width)
        ends = np.cumsum(in_stream) - in_stream
        offset = (np.cumsum(lengths) - lengths)[elements // RUN]
        if start % RUN:
            offset[elements // RUN == start // RUN] = self._state[0]
        position = offset + ends - ends[np.maximum(elements // RUN * RUN - start, 0)]
        padded = np.frombuffer(bytes(self._stream) + bytes(_REACH), np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 8)
        words = np.ascontiguousarray(windows[position >> 3]).view("<u8")[:, 0] >> (position & 7).astype(np.uint64)
        folded = words & ((np.uint64(1) << in_stream.astype(np.uint64)) - np.uint64(1))
        here = np.arange(*np.searchsorted(places, [start, end]))
        at, nth = places[here] - start, here - np.searchsorted(places, places[here])
        shift = np.minimum(width[at] + _ENTRY_BITS * nth, 63).astype(np.uint64)
        np.bitwise_or.at(folded, at, (entries[here] >> _PLACE_BITS).astype(np.uint64) << shift)
        run = end // RUN if end < self.count else len(lengths)
        numbers = (
            position[-1] + in_stream[-1],
            lengths[:run].sum(),
            np.searchsorted(places, end),
            counts[: run + 1].sum(),
        )
        self._state = array("q", [int(number) for number in numbers])
        part = folded.astype(kind)
        place = _places(origin) + ((part >> 1) ^ (0 - (part & 1)))
        room[:] = _places(place, back=True).astype(kind).tobytes()
        return True


def fold(before: memoryview, after: memoryview, dtype: str) -> tuple[bytes, int]:
    """Work out the changes of a block of elements; return them and how many elements have moved.

    :param before: The base's elements.
    :param after: The fine-tune's.
    :param dtype: Of both.
    """
    size, kernels = ITEM_SIZES[dtype], load_or_none("exact")
    count, code = len(before) // size, FLOAT_DTYPES.index(dtype)
    if kernels is None or not count:
        return _fold_with_numpy(before, after, dtype)
    changes, sizes = bytearray(len(before)), array("q", bytes(8 * 65 << _EXPONENT_BITS[dtype]))
    origin, folded = _address(before), _address(memoryview(changes))
    moved = kernels.fold(origin, _address(after), code, count, folded, _pointer(sizes))
    widths, bits, rest = _choose(sizes, dtype)
    stream, three, runs = bytearray((bits + 7) // 8 + 8), array("q", widths), -(-count // RUN)
    tables, to = array("H", bytes(2 * (2 * runs + rest))), _address(memoryview(stream))
    bits = kernels.pack(origin, folded, code, _pointer(three), count, to, _pointer(tables), len(tables))
    rest = sum(tables[runs : 2 * runs])
    return b"".join([_HEAD.pack(*widths, rest), tables[: 2 * runs + rest], stream[: (bits + 7) // 8]]), moved


def most_folded(elements: int, dtype: str) -> int:
    """Return the bytes that the changes of a block have at most: the widest stream, and entries for what is left."""
    width = min(_MOST_BITS[dtype], 8 * ITEM_SIZES[dtype])
    entries = -(-(8 * ITEM_SIZES[dtype] - width) // _ENTRY_BITS)
    bits = elements * (width + (_ENTRY_BITS + _PLACE_BITS) * entries)
    return _HEAD.size + 4 * -(-elements // RUN) + -(-bits // 8)


def _fold_with_numpy(before: memoryview, after: memoryview, dtype: str) -> tuple[bytes, int]:
    import numpy as np

    kind = np.dtype(f"<u{ITEM_SIZES[dtype]}")
    origin = np.frombuffer(before, kind)
    count, runs = len(origin), -(-len(origin) // RUN)
    change = _places(np.frombuffer(after, kind)) - _places(origin)
    folded = ((change << 1) ^ (0 - (change >> (8 * kind.itemsize - 1)))).astype(kind)
    exponents, wide = _exponents(origin, dtype), folded.astype(np.uint64)
    widths, _, _ = _choose(np.bincount(exponents * 65 + _sizes(wide), minlength=65 << _EXPONENT_BITS[dtype]), dtype)
    run = np.arange(count) // RUN
    width = np.clip(widths[0] - exponents, *widths[1:]).astype(np.uint64)
    in_stream = np.where(np.bincount(run, folded != 0, runs)[run] > 0, width, np.uint64(0))
    position, high = np.cumsum(in_stream) - in_stream, wide >> width
    low, shift = wide ^ (high << width), position & np.uint64(63)
    words, at = np.zeros(int(in_stream.sum()) // 64 + 2, "<u8"), (position >> np.uint64(6)).astype(np.int64)
    np.bitwise_or.at(words, at, low << shift)
    np.bitwise_or.at(words, at + 1, low >> np.uint64(1) >> (np.uint64(63) - shift))
    each = (high[:, None] >> np.arange(0, 64, _ENTRY_BITS, dtype=np.uint64) != 0).sum(1)
    owner = np.repeat(np.arange(count), each)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(each) - each, each)
    above = (high[owner] >> (_ENTRY_BITS * nth).astype(np.uint64)).astype(np.int64) % (1 << _ENTRY_BITS)
    tables = (
        np.bincount(run, in_stream, runs),
        np.bincount(run, each, runs),
        above << _PLACE_BITS | owner % RUN,
    )
    stream = words.tobytes()[: (int(in_stream.sum()) + 7) // 8]
    parts = [_HEAD.pack(*widths, len(owner)), *(table.astype("<u2").tobytes() for table in tables), stream]
    return b"".join(parts), int(np.count_nonzero(folded))


def _choose(sizes: Any, dtype: str) -> tuple[tuple[int, int, int], int, int]:
    """Choose how many bits of each change go into the stream, so that about the least room is taken.

    :param sizes: How many changes have how many bits (0 to 64), for each exponent of the base.
    :param dtype: Of the elements.
    :returns: What ``packing.pack`` has to know; how many bits the stream has, and how many entries there are, at most.
    """
    import numpy as np

    table = np.asarray(sizes).reshape(-1, 65)
    exponents = np.flatnonzero(table.sum(1))
    table, most = table[exponents], _MOST_BITS[dtype]
    total, bits, rows = table.sum(1), np.arange(most + 1), np.arange(len(exponents))
    entries = table @ -(-np.maximum(np.arange(65)[:, None] - bits, 0) // _ENTRY_BITS)
    room = bits * total[:, None] + (_ENTRY_BITS + _PLACE_BITS) * entries

    def widths(both: int, least: Any, most: Any) -> Any:
        return np.clip(both - exponents[:, None], least, most)

    found = []
    for row in np.argsort(-total, kind="stable")[:4]:  # what suits a frequent exponent suits the others
        both = int(exponents[row] + room[row].argmin())
        least = int(room[rows[:, None], widths(both, bits, most)].sum(0).argmin())
        high = least + int(room[rows[:, None], widths(both, least, bits[least:])].sum(0).argmin())
        cost = int(room[rows, widths(both, least, high)[:, 0]].sum())
        found.append((cost, both, least, high))
    _, both, least, high = min(found, default=(0, 0, 0, 0))
    width = widths(both, least, high)[:, 0]
    return (both, least, high), int(width @ total), int(entries[rows, width].sum())


def _sizes(numbers: Any) -> Any:
    """Return how many bits each number has; of a very large one perhaps one more."""
    import numpy as np

    return ((np.minimum(numbers, np.uint64((1 << 63) - 1)).astype("i8") + 0.5).view("u8").astype("i8") >> 52) - 1022


def _exponents(values: Any, dtype: str) -> Any:
    bits = _EXPONENT_BITS[dtype]
    return (values >> (8 * values.dtype.itemsize - 1 - bits)).astype("i8") & ((1 << bits) - 1)


def _places(values: Any, back: bool = False) -> Any:
    """Return the place of each float in the order of its dtype, or ``back`` the bits of the float at each place."""
    bits = values.dtype.itemsize * 8
    sign = values >> (bits - 1)
    flip = 0 - (sign ^ 1 if back else sign)
    return (values ^ (flip | (values.dtype.type(1) << (bits - 1)))).astype(values.dtype)


def _numbers(data: memoryview) -> array[int]:
    numbers = array("H")
    numbers.frombytes(data)
    return numbers


def _pointer(values: array) -> int:
    return values.buffer_info()[0]


def _address(room: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))


def _bytes_at(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
