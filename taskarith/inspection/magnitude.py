"""How large values are, and how far from others: by kernels, or by numpy for what is not finite or extreme."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from taskarith.arithmetic.encoding import decode
from taskarith.arithmetic.kernels.available import address, load_or_none
from taskarith.arithmetic.kernels.layout import BLOCK, DTYPE_CODES
from taskarith.arithmetic.parallel import chunks
from taskarith.checkpoints.header import ITEM_SIZES

__all__ = ["Magnitude", "compare", "measure"]

_PIECE = 1 << 16  # elements, whose float64 values stay in a core's cache

_Data = bytes | bytearray
_Side = tuple[_Data, str]


class Magnitude:
    """Statistics of values that come in chunks; non-finite ones are only counted."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.zeros = 0
        self.nonfinite = 0
        self._norms: list[float] = []

    def add(self, values: np.ndarray) -> None:
        """Add a chunk of flat float64 values."""
        if not values.size:
            return
        sizes = np.abs(values)
        largest = float(sizes.max())
        if not math.isfinite(largest):
            sizes = sizes[np.isfinite(sizes)]
            self.nonfinite += values.size - sizes.size
            largest = float(sizes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        self.zeros += int(np.count_nonzero(sizes == 0))  # of truth values, which numpy counts ten times as fast
        if largest:
            unit = 1.0 if _can_be_squared(largest) else largest
            self._norms.append(unit * math.sqrt(float(np.square(sizes / unit if unit != 1.0 else sizes).sum())))

    def add_sums(self, largest: float, squares: float) -> None:
        """Add finite values by the largest of their magnitudes and the sum of their squares; zeros are not counted."""
        self.largest = max(self.largest, largest)
        self._norms.append(math.sqrt(squares))

    @property
    def norm(self) -> float:
        """The Euclidean norm."""
        return math.hypot(*self._norms)


def measure(data: _Data, dtype: str, size: Magnitude) -> None:
    """Add the elements of a chunk.

    :param data: Their bytes.
    :param dtype: A supported float dtype, as in safetensors.
    :param size: Takes them.
    """
    if found := _by_kernel((data, dtype)):
        zeros, *sums = found
        size.add_sums(*sums)
        size.zeros += int(zeros)
        return
    with np.errstate(invalid="ignore"):  # signalling NaNs, when widened
        for (piece,) in _pieces((data, dtype)):
            size.add(decode(piece, dtype))


def compare(left: _Data, dtype: str, right: _Data, other: str, distance: Magnitude, size: Magnitude) -> int:
    """Return how many elements differ: their bits, as float64 if dtypes differ.

    :param left: Bytes of a chunk.
    :param dtype: Its dtype, as in safetensors.
    :param right: Bytes of as many elements.
    :param other: Their dtype: the same, or both are supported floats.
    :param distance: Takes the differences of floats; the zeros among them are not counted.
    :param size: Takes the floats on the left, likewise.
    """
    if found := _by_kernel((left, dtype), (right, other)):
        differing, *sums = found
        distance.add_sums(*sums[:2])
        size.add_sums(*sums[2:])
        return int(differing)
    pieces = _pieces((left, dtype), (right, other))
    with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinities and overflowing differences
        return sum(_compare(*pair, dtype, other, distance, size) for pair in pieces)


def _compare(left: _Data, right: _Data, dtype: str, other: str, distance: Magnitude, size: Magnitude) -> int:
    """Compare by numpy."""
    are_floats = {dtype, other} <= DTYPE_CODES.keys()
    values = decode(left, dtype) if are_floats else np.empty(0)
    size.add(values)
    if dtype == other and left == right:
        return 0
    differ = _bits(left, dtype, other) != _bits(right, other, dtype)
    if are_floats:
        values -= decode(right, other)
        if not math.isfinite(values.sum()):
            values[~differ] = 0  # equal infinities, too
        distance.add(values)
    return int(np.count_nonzero(differ))


def _pieces(*sides: _Side) -> Iterator[tuple[_Data, ...]]:
    """Yield smaller pieces of all sides, of whole elements."""
    count = len(sides[0][0]) // ITEM_SIZES[sides[0][1]]
    for start, stop in chunks(count, _PIECE):
        yield tuple(data[start * ITEM_SIZES[dtype] : stop * ITEM_SIZES[dtype]] for data, dtype in sides)


def _by_kernel(*sides: _Side) -> list[float] | None:
    """Return what the kernel of one chunk or of two finds; None if that is for numpy."""
    data, dtype = sides[0]
    if not data or any(one not in DTYPE_CODES for _, one in sides) or (kernels := load_or_none("distances")) is None:
        return None
    given = [part for raw, one in sides for part in (np.frombuffer(raw, np.uint8).ctypes.data, DTYPE_CODES[one])]
    found, scratch = np.empty(1 + 2 * len(sides)), np.empty(len(sides) * BLOCK)
    kernel = kernels.sizes if len(sides) == 1 else kernels.distances
    is_finite = kernel(*given, len(data) // ITEM_SIZES[dtype], address(found), address(scratch))
    if not is_finite or not all(map(_can_be_squared, found[1::2])):
        return None
    return found.tolist()


def _bits(data: _Data, dtype: str, other: str) -> np.ndarray:
    """Return the bits of elements as integers, of float64 if dtypes differ."""
    return np.frombuffer(data, f"<u{ITEM_SIZES[dtype]}") if dtype == other else decode(data, dtype).view("<u8")


def _can_be_squared(largest: float) -> bool:
    """Tell whether squares of values up to this magnitude neither overflow nor lose what counts."""
    return largest == 0 or 1e-100 < largest < 1e100
