"""Changes between two arrays of floats as bytes that compress well, and back to the bit: ``arithmetic.packing``."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskarith.arithmetic.compiled import Kernels

__all__ = ["Folded", "Mask", "fold"]


class Mask:
    """Says of each element of a block whether a change is stored for it.

    :param data: One bit for each element, the lowest of a byte first.
    :param count: Number of elements.
    :raises ValueError: It has another length, or says something of elements that are not there.
    """

    def __init__(self, data: bytes, count: int) -> None:
        bits = int.from_bytes(data, "little")
        if len(data) != (count + 7) // 8 or bits.bit_length() > count:
            raise ValueError("its mask does not fit")
        self.data, self.changes = data, bits.bit_count()


class Folded:
    """The changes of one block of elements, from which any of the fine-tune's elements are worked out.

    :param planes: Byte 0 of all changes, byte 1 of all changes, and so on; empty where all of these bytes are zero.
    :param count: Number of elements of the block.
    :param mask: Which elements the planes hold a change for; None: for every one.
    :raises ValueError: The sizes do not fit each other.
    """

    def __init__(self, planes: Sequence[bytes], count: int, mask: Mask | None = None) -> None:
        self.planes, self.count, self.mask = planes, count, mask
        changes = count if mask is None else mask.changes
        if any(len(plane) not in {0, changes} for plane in planes):
            raise ValueError("its planes do not fit its mask")
        self._changes = -1 if mask is None else changes
        self._at, self._position = 0, 0
        self._zeros = b"" if all(planes) else bytes(changes)
        self._parts = array("q", [_bytes_at(plane or self._zeros) for plane in planes])

    def read(self, start: int, room: memoryview, before: memoryview) -> None:
        """Write elements of the fine-tune into all of ``room``.

        :param start: Number of the first one in the block.
        :param room: Bytes for whole elements.
        :param before: The bytes of the same elements of the base.
        :raises ValueError: They are not all in the block.
        """
        width = len(self.planes)
        count = len(room) // width
        if not 0 <= start <= start + count <= self.count or len(before) != len(room):
            raise ValueError("it has no such elements")
        if not count:
            return
        if self._changes == 0:
            room[:] = before
            return
        if start != self._at and self.mask is not None:
            bits = int.from_bytes(self.mask.data[: (start + 7) // 8], "little")
            self._position = (bits & ((1 << start) - 1)).bit_count()
        kernels = _kernels()
        if kernels is None:
            self._with_numpy(start, room, before)
            return
        self._position = kernels.unfold(
            _address(before),
            self._parts.buffer_info()[0],
            width,
            _bytes_at(self.mask.data) if self.mask is not None else 0,
            self._changes,
            self._position,
            start,
            count,
            _address(room),
        )
        self._at = start + count

    def _with_numpy(self, start: int, room: memoryview, before: memoryview) -> None:
        import numpy as np

        width = len(self.planes)
        kind = np.dtype(f"<u{width}")
        changes = np.stack([np.frombuffer(plane or self._zeros, np.uint8) for plane in self.planes], 1)
        folded: Any = np.zeros(self.count, kind)
        moved = (
            np.unpackbits(np.frombuffer(self.mask.data, np.uint8), bitorder="little")[: self.count] if self.mask else 1
        )
        folded[np.broadcast_to(np.asarray(moved, bool), self.count)] = np.ascontiguousarray(changes).view(kind)[:, 0]
        part = folded[start : start + len(room) // width]
        place = _places(np.frombuffer(before, kind)) + ((part >> 1) ^ (0 - (part & 1)))
        room[:] = _places(place, back=True).astype(kind).tobytes()


def fold(before: memoryview, after: memoryview, width: int) -> tuple[Folded, int]:
    """Work out the changes of a block of elements; return them and how many elements have moved.

    Where half of the elements or more have not moved, only the others' changes are kept, with a mask.

    :param before: The base's elements.
    :param after: The fine-tune's, of the same dtype.
    :param width: Bytes of an element: 2, 4 or 8.
    """
    count = len(before) // width
    planes, kernels = bytearray(max(1, width * count)), _kernels()
    if kernels is None:
        return _fold_with_numpy(before, after, width)
    address = _address(memoryview(planes))
    moved = kernels.fold(_address(before), _address(after), width, count, address) if count else 0
    mask = None
    if 2 * moved <= count:
        mask = bytearray((count + 7) // 8)
        if moved:
            kernels.squeeze(address, width, count, _address(memoryview(mask)))
    kept = count if mask is None else moved
    parts = [bytes(planes[index * count : index * count + kept]) for index in range(width)]
    return Folded(parts, count, None if mask is None else Mask(bytes(mask), count)), moved


def _fold_with_numpy(before: memoryview, after: memoryview, width: int) -> tuple[Folded, int]:
    import numpy as np

    kind = np.dtype(f"<u{width}")
    change = _places(np.frombuffer(after, kind)) - _places(np.frombuffer(before, kind))
    folded = ((change << 1) ^ (0 - (change >> (8 * width - 1)))).astype(kind)
    moved = folded != 0
    total, mask = int(np.count_nonzero(moved)), None
    if 2 * total <= folded.size:
        folded, mask = folded[moved], Mask(np.packbits(moved, bitorder="little").tobytes(), moved.size)
    planes = [plane.tobytes() for plane in folded.view(np.uint8).reshape(-1, width).T]
    return Folded(planes, moved.size, mask), total


def _places(values: Any, back: bool = False) -> Any:
    """Return the place of each float in the order of its dtype, or ``back`` the bits of the float at each place."""
    bits = values.dtype.itemsize * 8
    sign = values >> (bits - 1)
    flip = 0 - (sign ^ 1 if back else sign)
    return (values ^ (flip | (values.dtype.type(1) << (bits - 1)))).astype(values.dtype)


@cache
def _kernels() -> Kernels | None:
    try:
        from taskarith.arithmetic.compiled import load_kernels

        return load_kernels()
    except (ImportError, RuntimeError):  # no numba, or no LLVM for this machine
        return None


def _address(room: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))


def _bytes_at(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
