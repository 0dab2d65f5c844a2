"""Packed task vectors: each delta lies in blocks that are compressed one by one, and is decoded while it is read.

The file is a safetensors file. Every tensor of it is a blob of bytes, under the name of the delta: its blocks one after
the other, then the size of each block as a little-endian uint32. A block holds ``block`` elements (a number in the
header), the last one of a tensor the rest. The header's ``shapes`` says what is decoded: name to dtype and shape.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from taskarith.checkpoints.header import FLOAT_DTYPES, ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader, hasher
from taskarith.errors import VectorError
from taskarith.vectors.file import VectorFile, header_json
from taskarith.vectors.vector import Packed

__all__ = ["Block", "PackedFile", "join_parts", "split_parts", "unpack"]

_LARGEST_BLOCK = 1 << 22
_HINT = "The file is damaged: extract it again, or get it again from where it came from."


class Block(Protocol):
    """A block of elements that was opened."""

    def read(self, start: int, room: memoryview, against: memoryview | None) -> None:
        """Decode elements from number ``start`` of the block on into all of ``room``; see ``form.Stream``."""


class PackedFile(VectorFile):
    """A packed task vector whose header has been checked.

    :param path: A ``.safetensors`` file.
    :param kind: The kind that is expected; None for any.
    :raises VectorError: It is not such a vector, or its header is broken.
    :raises CheckpointError: It is not a sound safetensors file.
    """

    def __init__(self, path: Path, kind: str | None = None) -> None:
        super().__init__(path, kind)
        self.dtypes: Mapping[str, str]
        self.shapes: Mapping[str, tuple[int, ...]]
        self.dtypes, self.shapes = _shapes(path, self.metadata, self.entries)
        text = self.metadata.get("block", "")
        self.block = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
        if not 0 < self.block <= _LARGEST_BLOCK:
            raise VectorError(f"{path} has a broken header: 'block' is {text[:20]!r}", "Extract it again.")

    def packed(
        self, tensor: str, open_block: Callable[[memoryview, int, int], Block], base: TensorEntry | None = None
    ) -> Packed:
        """Return how one delta is decoded.

        :param tensor: Its name.
        :param open_block: Opens a block from its bytes, which stay until the next one, the number of its first element
            and its number of elements; raises ValueError where they are broken.
        :param base: As in ``Packed``; the record of the base says what its fingerprint must be.
        """
        entry, dtype, shape = self.entries[tensor], self.dtypes[tensor], self.shapes[tensor]

        def opened(reader: TensorReader) -> _BlockStream:
            return _BlockStream(entry, dtype, shape, self.block, reader, open_block)

        expected = self.base.tensors.get(tensor, "") if self.base else ""
        return Packed(dtype, entry.nbytes, opened, base, expected if base else "")

    def fingerprint(self, tensor: str, reader: TensorReader) -> str:
        """Return the fingerprint of what is stored of one delta, as a stream gives it."""
        state = hasher(self.dtypes[tensor], self.shapes[tensor])
        for piece in reader.pieces(self.entries[tensor]):
            state.update(piece)
        return state.hexdigest()


class _BlockStream:
    """Decodes one tensor, block after block; see ``Stream``."""

    def __init__(
        self,
        entry: TensorEntry,
        dtype: str,
        shape: tuple[int, ...],
        block: int,
        reader: TensorReader,
        open_block: Callable[[memoryview, int, int], Block],
    ) -> None:
        self._entry, self._reader, self._block, self._open_block = entry, reader, block, open_block
        self._elements, self._size = math.prod(shape), ITEM_SIZES[dtype]
        self._state = hasher(dtype, shape)
        self._position, self._number = 0, -1
        self._ends = self._read_index()
        self._room = bytearray()

    def read_into(self, out: memoryview, base: memoryview | None) -> None:
        """Decode the next elements into all of ``out``."""
        done = 0
        while done < len(out):
            number, start = divmod(self._position, self._block)
            if self._position >= self._elements:
                raise self._broken("it has fewer elements than are read")
            if number != self._number:
                self._opened: Block = self._open(number)
                self._number = number
            count = min((len(out) - done) // self._size, self._first(number + 1) - self._position)
            end = done + count * self._size
            try:
                self._opened.read(start, out[done:end], None if base is None else base[done:end])
            except ValueError as error:
                raise self._broken(str(error)) from error
            done, self._position = end, self._position + count

    def skip(self, elements: int) -> None:
        """Leave out elements."""
        self._position += elements

    def fingerprint(self) -> str:
        """Return the fingerprint of the blob, valid after the last element."""
        state = self._state.copy()
        state.update(self._raw_index)
        return state.hexdigest()

    def _first(self, number: int) -> int:
        """Return the first element of a block."""
        return min(number * self._block, self._elements)

    def _open(self, number: int) -> Block:
        start, end = self._ends[number - 1] if number else 0, self._ends[number]
        if end - start > len(self._room):  # memory that is taken anew for each block costs more than to read it
            self._room = bytearray(end - start)
        data = memoryview(self._room)[: end - start]
        self._reader.read_into(self._entry, start, data)
        self._state.update(data)
        first = self._first(number)
        try:
            return self._open_block(data, first, self._first(number + 1) - first)
        except ValueError as error:
            raise self._broken(f"block {number}: {error}") from error

    def _read_index(self) -> array[int]:
        """Return where each block ends."""
        count = -(-self._elements // self._block)
        size = self._entry.nbytes - 4 * count
        if size < 0:
            raise self._broken("it is too short for its shape")
        self._raw_index = bytes(self._reader.read(self._entry, size, self._entry.nbytes))
        ends, end = array("q"), 0
        for length in _numbers(self._raw_index):
            end += length
            ends.append(end)
        if end != size:
            raise self._broken(f"its blocks take {end} bytes, not {size}")
        return ends

    def _broken(self, reason: str) -> VectorError:
        return VectorError(f"{self._entry.name} in {self._entry.path} is broken: {reason}", _HINT)


def join_parts(parts: Iterable[bytes]) -> bytes:
    """Compress some byte strings into one: the size of each compressed one as uint32, then all of them.

    One that is empty or all zero takes no room but its size.
    """
    import zstandard  # late: exact vectors do without

    compressor = zstandard.ZstdCompressor(level=1)
    packed = [b"" if part == bytes(len(part)) else compressor.compress(part) for part in parts]
    return b"".join([*(len(part).to_bytes(4, "little") for part in packed), *packed])


def split_parts(data: memoryview, count: int) -> list[memoryview]:
    """Return the ``count`` compressed byte strings of a block, to be given to ``unpack``.

    :raises ValueError: The sizes are not those of the data.
    """
    sizes = _numbers(data[: 4 * count])
    if len(data) < 4 * count or 4 * count + sum(sizes) != len(data):
        raise ValueError("its parts do not fill it")
    position, parts = 4 * count, []
    for size in sizes:
        parts.append(data[position : position + size])
        position += size
    return parts


def unpack(part: memoryview, size: int) -> bytes:
    """Decompress a byte string of a size that is known; nothing is allocated for another one.

    :raises ValueError: It has another size, or is broken; an empty part is all zero, and is returned empty.
    """
    if not part:
        return b""
    import zstandard  # late, as above

    try:
        found = zstandard.get_frame_parameters(part).content_size
        if found != size:
            raise ValueError(f"a part has {found} bytes, not {size}")
        data = zstandard.ZstdDecompressor().decompress(part, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(str(error)) from error
    if len(data) != size:
        raise ValueError(f"a part has {len(data)} bytes, not {size}")
    return data


def _numbers(data: bytes | memoryview) -> array[int]:
    """Return little-endian uint32 values."""
    numbers = array("I")
    numbers.frombytes(data[: len(data) // 4 * 4])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _shapes(
    path: Path, metadata: Mapping[str, str], entries: Mapping[str, TensorEntry]
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Read the table of what is decoded, and check it against the blobs."""
    table = header_json(path, metadata, "shapes")
    try:
        dtypes = {name: dtype for name, (dtype, _) in table.items()}
        shapes = {name: tuple(shape) for name, (_, shape) in table.items()}
        sizes = [size for shape in shapes.values() for size in shape]
        sound = all(dtype in FLOAT_DTYPES for dtype in dtypes.values())
        sound = sound and all(type(size) is int and 0 <= size < 1 << 48 for size in sizes)
    except (ValueError, TypeError):
        sound, dtypes, shapes = False, {}, {}
    if not sound:
        raise VectorError(f"{path} has a broken header: 'shapes' is not a table of shapes", "Extract it again.")
    odd = sorted(dtypes.keys() ^ entries.keys())
    odd += [name for name, e in entries.items() if name in dtypes and (e.dtype != "U8" or len(e.shape) != 1)]
    if odd:
        raise VectorError(f"{path} has a broken header: '{odd[0]}' has no shape, or no blob", "Extract it again.")
    return dtypes, {name: shapes[name] for name in entries}
