"""Changes between two arrays of floats as a stream of bits, and back to the bit: ``packing`` and ``unpacking``."""

from __future__ import annotations

import ctypes
from array import array
from bisect import bisect_left
from itertools import accumulate
from typing import Any

from taskarith.arithmetic.available import load_or_none

__all__ = ["RUN", "Folded", "fold"]

RUN = 512
"""Elements in a row that begin at a known place of the stream; ``compiled.BLOCK``."""

_MOST_BITS = 56  # 64 bits from the byte on in which they begin hold all of them
_REACH = RUN * _MOST_BITS // 8 + 8
"""Bytes of the stream that are read for a run at most, whatever the base."""

_REST_COST = 14
"""About as many bits are stored of a change that has more than the stream takes."""


class Folded:
    """The changes of one block of elements, from which the fine-tune's elements are worked out.

    Numbers of several bytes stand as planes: all their lowest bytes, then all second ones, and so on.

    :param width: Bytes of an element: 2, 4 or 8.
    :param count: Number of elements of the block.
    :param widths: 256 bytes: how many bits of a change are in the stream, for each exponent of the base: the 8 bits
        after the sign.
    :param lengths: Planes of a uint16 for each run: how many bits it has in the stream; without any it has no changes.
    :param stream: The lowest bits of each change, the first one's first; writable memory is not copied.
    :param gaps: Planes of a uint32 for each change that has further bits: how far it is from the one before.
    :param high: Planes of these bits, as elements.
    :raises ValueError: The parts do not fit each other.
    """

    def __init__(
        self,
        width: int,
        count: int,
        widths: bytes,
        lengths: bytes,
        stream: bytes | bytearray | memoryview,
        gaps: bytes,
        high: bytes,
    ) -> None:
        self.width, self.count = width, count
        self.widths, self.lengths, self.gaps, self.high = widths, lengths, gaps, high
        self.stream = bytearray(stream) if isinstance(stream, bytes) else stream
        self._rest, runs = len(gaps) // 4, _runs(count)
        fits = len(widths) == 256 and max(widths) <= _most_bits(width) and len(lengths) == 2 * runs
        bits = sum(lengths[:runs]) + 256 * sum(lengths[runs:])
        if not fits or (bits + 7) // 8 != len(stream) or len(high) != width * self._rest:
            raise ValueError("its changes do not fit each other")
        cut = max(0, len(stream) - _REACH)
        self._tail = bytes(stream[cut:]) + bytes(_REACH)
        begin = _address(memoryview(self.stream)) if cut else 0
        self._places = array("q", [begin, cut, _bytes_at(self._tail)])
        self._at, self._state = 0, array("q", [0, 0, 0, 0])

    def read(self, start: int, room: memoryview, before: memoryview) -> None:
        """Write elements of the fine-tune into all of ``room``.

        :param start: Number of the first one in the block: that after the last one that was read, or a multiple of
            ``RUN``.
        :param room: Bytes for whole elements.
        :param before: The bytes of the same elements of the base.
        :raises ValueError: They are not all in the block, or cannot be found.
        """
        count, kernels = len(room) // self.width, load_or_none()
        if not 0 <= start <= start + count <= self.count or len(before) != len(room):
            raise ValueError("it has no such elements")
        if not count:
            return
        if start != self._at:
            self._seek(start)
        if kernels is None:
            self._with_numpy(start, room, before)
        else:
            kernels.unfold(
                _address(before),
                self.width,
                _bytes_at(self.widths),
                self._places.buffer_info()[0],
                _bytes_at(self.lengths),
                _runs(self.count),
                _bytes_at(self.gaps),
                _bytes_at(self.high),
                self._rest,
                self._state.buffer_info()[0],
                start,
                count,
                _address(room),
            )
        self._at = start + count
        if self._at == self.count and self._state[1] != self._rest:
            raise ValueError("a change is outside the tensor")

    def _seek(self, start: int) -> None:
        if start % RUN:
            raise ValueError(f"it can be read from its beginning, or from a multiple of {RUN} elements on")
        places, runs, run = list(accumulate(array("I", _joined(self.gaps, 4)))), _runs(self.count), start // RUN
        before, begun = bisect_left(places, start), sum(self.lengths[:run]) + 256 * sum(self.lengths[runs : runs + run])
        self._state = array("q", [0, before, places[before - 1] if before else 0, begun])

    def _with_numpy(self, start: int, room: memoryview, before: memoryview) -> None:
        import numpy as np

        kind, end = np.dtype(f"<u{self.width}"), start + len(room) // self.width
        origin = np.frombuffer(before, kind)
        lengths = np.frombuffer(_joined(self.lengths, 2), "<u2").astype(np.int64)
        starts, run = np.cumsum(lengths) - lengths, np.arange(start, end) // RUN
        widths = np.frombuffer(self.widths, np.uint8)[_exponents(origin)].astype(np.int64)
        in_stream = np.where(lengths[run] == 0, 0, widths)
        ends = np.cumsum(in_stream)
        first = np.maximum(run * RUN - start, 0)  # where the run of each element begins here
        offset = starts[run]
        if start % RUN:
            offset[run == run[0]] = self._state[0]
        position = offset + ends - in_stream - (ends - in_stream)[first]
        padded = np.frombuffer(bytes(self.stream) + bytes(_REACH), np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 8)
        words = np.ascontiguousarray(windows[position >> 3]).view("<u8")[:, 0] >> (position & 7).astype(np.uint64)
        folded = words & ((np.uint64(1) << in_stream.astype(np.uint64)) - np.uint64(1))
        places = np.cumsum(np.frombuffer(_joined(self.gaps, 4), "<u4").astype(np.int64))
        here = slice(self._state[1], int(np.searchsorted(places, end)))
        at, high = places[here] - start, np.frombuffer(_joined(self.high, self.width), kind)[here].astype(np.uint64)
        np.bitwise_or.at(folded, at, high << widths[at].astype(np.uint64))
        last = int(places[here.stop - 1]) if here.stop else 0
        self._state = array("q", [int(position[-1] + in_stream[-1]), here.stop, last, 0])
        part = folded.astype(kind)
        place = _places(origin) + ((part >> 1) ^ (0 - (part & 1)))
        room[:] = _places(place, back=True).astype(kind).tobytes()


def fold(before: memoryview, after: memoryview, width: int) -> tuple[Folded, int]:
    """Work out the changes of a block of elements; return them and how many elements have moved.

    :param before: The base's elements.
    :param after: The fine-tune's, of the same dtype.
    :param width: Bytes of an element: 2, 4 or 8.
    """
    count, kernels = len(before) // width, load_or_none()
    if kernels is None or not count:
        return _fold_with_numpy(before, after, width)
    changes, sizes = bytearray(width * count), array("q", bytes(8 * 256 * 65))
    origin, folded = _address(before), _address(memoryview(changes))
    moved = kernels.fold(origin, _address(after), width, count, folded, sizes.buffer_info()[0])
    widths, bits, rest = _widths(sizes, width)
    stream, lengths = bytearray((bits + 7) // 8 + 8), array("H", bytes(2 * _runs(count)))
    gaps, high = array("I", bytes(4 * rest)), bytearray(width * rest + 1)
    room = [_address(memoryview(stream)), lengths.buffer_info()[0], gaps.buffer_info()[0], _address(memoryview(high))]
    rest = kernels.pack(origin, folded, width, _bytes_at(widths), count, *room)
    used = (sum(lengths) + 7) // 8
    parts = _planes(gaps[:rest].tobytes(), 4), _planes(bytes(high[: width * rest]), width)
    return Folded(width, count, widths, _planes(lengths.tobytes(), 2), stream[:used], *parts), moved


def _fold_with_numpy(before: memoryview, after: memoryview, width: int) -> tuple[Folded, int]:
    import numpy as np

    kind = np.dtype(f"<u{width}")
    origin = np.frombuffer(before, kind)
    change = _places(np.frombuffer(after, kind)) - _places(origin)
    folded = ((change << 1) ^ (0 - (change >> (8 * width - 1)))).astype(kind)
    exponents = _exponents(origin)
    size = (np.minimum(folded.astype("u8"), (1 << 63) - 1).astype("i8") + 0.5).view("u8").astype("i8") >> 52
    widths, _, _ = _widths(np.bincount(exponents * 65 + size - 1022, minlength=256 * 65), width)
    each = np.frombuffer(widths, np.uint8)[exponents].astype(np.uint64)
    wide = folded.astype(np.uint64)
    high = wide >> each
    runs = np.arange(len(folded)) // RUN
    in_stream = np.where(np.bincount(runs, folded != 0)[runs] > 0, each, np.uint64(0)) if len(folded) else each
    position = np.cumsum(in_stream) - in_stream
    low, shift = wide ^ (high << each), position & np.uint64(63)
    words, at = np.zeros(int(in_stream.sum()) // 64 + 2, "<u8"), (position >> np.uint64(6)).astype(np.int64)
    np.bitwise_or.at(words, at, low << shift)
    np.bitwise_or.at(words, at + 1, low >> np.uint64(1) >> (np.uint64(63) - shift))
    lengths = np.bincount(runs, in_stream, _runs(len(folded))).astype("<u2")
    where = np.flatnonzero(high)
    gaps, above = np.diff(where, prepend=0).astype("<u4").tobytes(), high[where].astype(kind).tobytes()
    stream = words.tobytes()[: (int(in_stream.sum()) + 7) // 8]
    parts = _planes(lengths.tobytes(), 2), stream, _planes(gaps, 4), _planes(above, width)
    return Folded(width, len(folded), widths, *parts), int(np.count_nonzero(folded))


def _widths(sizes: Any, width: int) -> tuple[bytes, int, int]:
    """Choose how many bits of each change go into the stream.

    :param sizes: How many changes have how many bits (0 to 64), for each exponent of the base (0 to 255).
    :param width: Bytes of an element.
    :returns: The widths that take the least room; bits of the whole stream, and changes that have further bits.
    """
    import numpy as np

    most = _most_bits(width)
    fit = np.asarray(sizes).reshape(256, 65).cumsum(1)
    total, bits = fit[:, -1:], np.arange(most + 1)
    rest = total - fit[:, : most + 1]
    widths = (bits * total + rest * (_REST_COST + 8 * (width > 2))).argmin(1)
    return widths.astype(np.uint8).tobytes(), int(widths @ total[:, 0]), int(rest[np.arange(256), widths].sum())


def _most_bits(width: int) -> int:
    return min(_MOST_BITS, 8 * width)


def _runs(count: int) -> int:
    return -(-count // RUN)


def _exponents(values: Any) -> Any:
    return (values >> (8 * values.dtype.itemsize - 9)).astype("i8") & 255


def _places(values: Any, back: bool = False) -> Any:
    """Return the place of each float in the order of its dtype, or ``back`` the bits of the float at each place."""
    bits = values.dtype.itemsize * 8
    sign = values >> (bits - 1)
    flip = 0 - (sign ^ 1 if back else sign)
    return (values ^ (flip | (values.dtype.type(1) << (bits - 1)))).astype(values.dtype)


def _planes(numbers: bytes, width: int) -> bytes:
    """Return all first bytes of some numbers, all their second ones, and so on."""
    return b"".join(numbers[index::width] for index in range(width))


def _joined(planes: bytes, width: int) -> bytes:
    """Return the numbers of planes."""
    count = len(planes) // width
    return b"".join(planes[index::count] for index in range(count))


def _address(room: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))


def _bytes_at(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
