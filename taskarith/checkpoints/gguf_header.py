"""The header of a GGUF file, looked through before a library reads it: nothing in it claims more than the file holds.

Source: the specification in ggml's ``docs/gguf.md``; versions 2 and 3, little-endian. Others are left to the library.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from taskarith.errors import CheckpointError
from taskarith.untrusted import MalformedError, open_regular

__all__ = ["check_gguf"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the plain types of values."""
_STRING, _ARRAY = 8, 9
_INTEGERS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_DENSEST = 8
"""Elements that a byte may hold: the smallest types take 1.6 bits."""
_DIMENSIONS, _NESTED = 8, 4
_WIDTH, _LAYERS = "embedding_length", "block_count"
_ROWS = ("feed_forward_length", "vocab_size", "attention.head_count", "attention.head_count_kv")
"""What matrices have rows for, each of as many elements as the model is wide."""


def check_gguf(path: Path) -> None:
    """Refuse a file whose header claims more values, tensors, elements, layers or rows than it can hold.

    :raises CheckpointError: It does.
    """
    try:
        with open_regular(path) as file:
            _Header(file).check()
    except (MalformedError, struct.error) as error:
        reason = str(error) if isinstance(error, MalformedError) else "its header is cut off"
        raise CheckpointError(f"{path} is not a sound GGUF file: {reason}", "Download it again.") from error


class _Header:
    """Walks through the header of a file, from its beginning.

    :param file: At its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = self._size = file.seek(0, 2)
        file.seek(0)

    def check(self) -> None:
        """See that everything is there.

        :raises MalformedError: Something claims more than the file holds.
        :raises struct.error: The file ends before.
        """
        _, version, tensors, keys = self._unpack("<4sIQQ")
        if version not in {2, 3}:
            return
        numbers = self._numbers(keys)
        if numbers.get(_LAYERS, 0) > tensors:
            raise MalformedError(f"it claims {numbers[_LAYERS]} layers, and has {tensors} tensors")
        shapes = [self._shape() for _ in range(tensors)]
        elements = sum(map(math.prod, shapes))
        if elements > _DENSEST * self._size:
            raise MalformedError(f"its {tensors} tensors claim {elements} elements, and it has {self._size} bytes")
        if numbers.get(_WIDTH) not in {size for shape in shapes for size in shape}:
            raise MalformedError(f"its {_WIDTH} is {numbers.get(_WIDTH, 'missing')}, and no tensor is as wide")
        if _LAYERS not in numbers:  # transformers would make as many as it has by default
            raise MalformedError(f"its {_LAYERS} is missing")
        for key in _ROWS:
            if numbers.get(key, 0) * numbers[_WIDTH] > elements:
                raise MalformedError(f"its {key} is {numbers[key]}, and its tensors have {elements} elements")

    def _numbers(self, keys: int) -> dict[str, int]:
        """Return the integers that the header says of its architecture, which is a part of their names."""
        found, architecture = {}, b""
        for _ in range(keys):
            name, (kind,) = self._text(), self._unpack("<I")
            if kind in _INTEGERS:
                (found[name],) = self._unpack(_INTEGERS[kind])
            elif name == b"general.architecture" and kind == _STRING:
                architecture = self._text()
            else:
                self._value(kind)
        start = architecture + b"."
        return {
            name.removeprefix(start).decode(errors="replace"): number
            for name, number in found.items()
            if name.startswith(start)
        }

    def _shape(self) -> tuple[int, ...]:
        """Return the shape of the next tensor."""
        self._text()
        (count,) = self._unpack("<I")
        if count > _DIMENSIONS:
            raise MalformedError(f"a tensor with {count} dimensions")
        shape = self._unpack(f"<{count}Q")
        self._unpack("<IQ")
        return shape

    def _unpack(self, form: str) -> tuple:
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, size: int) -> bytes:
        self._spend(size)
        return self._file.read(size)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise MalformedError(f"its header claims more than the {self._size} bytes that it has")

    def _text(self) -> bytes:
        (size,) = self._unpack("<Q")
        return self._take(size)

    def _value(self, kind: int, depth: int = 0) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY and depth < _NESTED:
            inner, count = self._unpack("<IQ")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise MalformedError(f"a value of the unknown type {kind}, or nested too deeply")

    def _skip(self, size: int) -> None:
        self._spend(size)
        self._file.seek(size, 1)
