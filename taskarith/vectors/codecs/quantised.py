"""Quantised task vectors: a few bits an entry, and a float32 scale for each row of a matrix.

With 8 or 4 bits an entry is ``scale * q`` with ``q`` from -127 to 127, or -7 to 7, rounded to nearest even, and the
scale is the largest magnitude of the row divided by 127 or 7. With 1 bit it is the mean magnitude of the row with the
sign of the entry; of all such scales this one has the least error. What is not a matrix stays float32.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers
from taskarith.errors import VectorError
from taskarith.progress import Listener
from taskarith.vectors.codecs.block_file import PackedFile, join_parts, split_parts, unpack
from taskarith.vectors.codecs.rows import is_matrix, row_lengths, row_sizes
from taskarith.vectors.codecs.write import Piece, Source
from taskarith.vectors.file import header_json
from taskarith.vectors.vector import Packed

__all__ = ["BITS", "Quantised", "QuantisedVector"]

BITS = (8, 4, 1)


class Quantised:
    """Packs deltas in a few bits an entry; see ``pack.Form``.

    :param bits: 8, 4 or 1.
    """

    kind = "quantised"
    dtype = "F32"
    is_lossy = True

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.options: dict[str, Any] = {"bits": bits}

    def prepare(self, source: Source, names: Sequence[str], workers: Workers, listener: Listener) -> None:
        """Find the scale of each row."""
        del names
        measure = "sum" if self._bits == 1 else "largest"
        sizes = row_sizes(source, self.dtype, measure, workers, listener)
        self._columns = {name: source.shapes[name][-1] for name in sizes}
        self._scales = {
            name: (size / (self._columns[name] if self._bits == 1 else _most(self._bits))).astype("<f4")
            for name, size in sizes.items()
        }

    def most_bytes(self, source: Source) -> int:
        """Return how many bytes all blocks have at most: codes and scales of matrices, float32 of all else."""
        most = 0
        for shape in source.shapes.values():
            elements = math.prod(shape)
            scales = elements // shape[-1] + -(-elements // CHUNK_ELEMENTS) if is_matrix(shape) else 0
            most += -(-elements * self._bits // 8) + 4 * scales if scales else 4 * elements
        return most

    def decoded(self, name: str) -> str:
        """Return float32."""
        del name
        return "F32"

    def encode(self, piece: Piece, stop: threading.Event) -> tuple[bytes, dict[str, float]]:
        """Return the bytes of a block: the compressed scales of its rows and codes, or the planes of float32."""
        del stop
        if not piece.is_finite:
            return b"", {"kept": 0, "error_squares": 0.0}  # the run will be refused
        values = piece.values()
        sums = {"kept": len(values), "error_squares": 0.0}
        if piece.name not in self._columns:
            return join_parts(plane.tobytes() for plane in values.view(np.uint8).reshape(-1, 4).T), sums
        lengths = row_lengths(self._columns[piece.name], piece.start, piece.stop)
        first = piece.start // self._columns[piece.name]
        scales = self._scales[piece.name][first : first + len(lengths)]
        codes = _quantise(values, np.repeat(scales, lengths), self._bits)
        error = values.astype(np.float64) - _dequantise(codes, scales, lengths)
        sums["error_squares"] = float(np.square(error).sum())
        return join_parts([scales.tobytes(), _to_bytes(codes, self._bits)]), sums


class QuantisedVector(PackedFile):
    """A task vector file with a few bits an entry.

    :param path: A ``.safetensors`` file written by ``taskarith extract --bits``.
    :raises VectorError: It is not such a vector, or its header is broken.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Quantised.kind)
        self._bits = header_json(path, self.metadata, "options").get("bits", 0)
        if type(self._bits) is not int or self._bits not in BITS or set(self.dtypes.values()) - {"F32"}:
            raise VectorError(f"{path} has a broken header: it does not say how many bits", "Extract it again.")

    def delta(self, tensor: str) -> Packed:
        """Return how one delta is decoded."""
        shape, bits = self.shapes[tensor], self._bits
        columns = shape[-1] if is_matrix(shape) else 0
        return self.packed(tensor, lambda data, first, count: _QuantisedBlock(data, first, count, columns, bits))


class _QuantisedBlock:
    def __init__(self, data: memoryview, first: int, count: int, columns: int, bits: int) -> None:
        if not columns:
            planes = np.zeros((count, 4), np.uint8)
            for index, part in enumerate(split_parts(data, 4)):
                if part:
                    planes[:, index] = np.frombuffer(unpack(part, count), np.uint8)
            self._values = planes.view("<f4")[:, 0]
            return
        lengths = row_lengths(columns, first, first + count)
        scales, codes = split_parts(data, 2)
        size = (count * bits + 7) // 8
        rows = np.frombuffer(unpack(scales, 4 * len(lengths)) or bytes(4 * len(lengths)), "<f4")
        if not np.isfinite(rows).all():
            raise ValueError("a scale is not finite")
        self._values = _dequantise(_from_bytes(unpack(codes, size) or bytes(size), count, bits), rows, lengths)

    def read(self, start: int, room: memoryview, against: memoryview | None) -> None:
        """Decode entries of the delta."""
        del against
        to = np.frombuffer(room, "<f4")
        to[:] = self._values[start : start + len(to)]


def _most(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _quantise(values: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Return int8 codes; a scale of zero has no other code than zero."""
    if bits == 1:
        return np.where(values < 0, np.int8(-1), np.int8(1))
    most = _most(bits)
    ratio = np.divide(values, scales, out=np.zeros(len(values)), where=scales > 0, dtype=np.float64)
    return np.clip(np.rint(ratio), -most, most).astype(np.int8)


def _dequantise(codes: np.ndarray, scales: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return float32 ``scale * code``, rounded once."""
    values = codes.astype("<f4")
    with np.errstate(over="ignore"):  # only in a damaged file; whoever uses it sees that it is not finite
        values *= np.repeat(scales, lengths)
    return values


def _to_bytes(codes: np.ndarray, bits: int) -> bytes:
    """Pack codes, the first one in the lowest bits: two's complement, or of one bit 1 for minus."""
    if bits == 8:
        return codes.tobytes()
    if bits == 1:
        return np.packbits(codes < 0, bitorder="little").tobytes()
    nibbles = np.append(codes, np.zeros(len(codes) % 2, np.int8)).view(np.uint8) & 15
    return (nibbles[::2] | nibbles[1::2] << 4).tobytes()


def _from_bytes(data: bytes, count: int, bits: int) -> np.ndarray:
    if bits == 8:
        return np.frombuffer(data, np.int8)
    packed = np.frombuffer(data, np.uint8)
    if bits == 1:
        return np.int8(1) - 2 * np.unpackbits(packed, count=count, bitorder="little").view(np.int8)
    both = np.empty((len(packed), 2), np.int8)
    both[:, 0] = (packed << 4).view(np.int8) >> 4
    both[:, 1] = packed.view(np.int8) >> 4
    return both.reshape(-1)[:count]
