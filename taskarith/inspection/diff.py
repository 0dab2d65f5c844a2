"""The verb `diff`: two models, vectors or other safetensors files, tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskarith.arithmetic.encoding import decode
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.inspection.open_tensors import Magnitude, PackedEntry, go_through, open_contents, plain, raw_chunks
from taskarith.progress import SILENT, Listener

__all__ = ["Differences", "TensorDifference", "diff"]


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of both sides. Elements are compared where the shapes agree, and the dtypes too or both are floats.

    :param name: Its name.
    :param shapes: On either side.
    :param dtypes: On either side, as safetensors writes them.
    :param is_equal: Whether shape, dtype and all bits agree.
    :param elements: Number of elements, of the first side.
    :param differing: Elements whose bits differ, of two dtypes as float64: -0.0 is not 0.0. None: not compared.
    :param nonfinite: Of these, those whose difference is infinite or NaN, left out of what follows.
    :param largest: Largest absolute difference; None for integers and where elements were not compared.
    :param distance: ``||a - b||``; None as above.
    :param norm: ``||a||`` over its finite values; None as above.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    is_equal: bool
    elements: int
    differing: int | None
    nonfinite: int | None
    largest: float | None
    distance: float | None
    norm: float | None

    @property
    def relative(self) -> float | None:
        """``||a - b|| / ||a||``; None where either is not known, or a is zero and b is not."""
        return _ratio(self.distance, self.norm)


@dataclass(frozen=True)
class Differences:
    """Two sides compared.

    :param first: Path of a.
    :param second: Path of b.
    :param only_first: Names that only a has, in its order.
    :param only_second: Names that only b has, in its order.
    :param tensors: Every tensor that both have, in the order of a.
    """

    first: Path
    second: Path
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both have the same names, and under each the same shape, dtype and bits."""
        return not (self.only_first or self.only_second or any(not tensor.is_equal for tensor in self.tensors))

    @property
    def elements(self) -> int:
        """Number of elements that were compared."""
        return sum(tensor.elements for tensor in self.tensors if tensor.differing is not None)

    @property
    def differing(self) -> int:
        """Number of elements that differ."""
        return sum(tensor.differing or 0 for tensor in self.tensors)

    @property
    def nonfinite(self) -> int:
        """Of these, the number of those whose difference is infinite or NaN."""
        return sum(tensor.nonfinite or 0 for tensor in self.tensors)

    @property
    def largest(self) -> float:
        """Largest absolute difference of two floats."""
        return max((tensor.largest or 0.0 for tensor in self.tensors), default=0.0)

    @property
    def relative(self) -> float | None:
        """``||a - b|| / ||a||`` over all floats that were compared; None where a is zero and b is not."""
        distance = math.hypot(*(tensor.distance or 0.0 for tensor in self.tensors))
        return _ratio(distance, math.hypot(*(tensor.norm or 0.0 for tensor in self.tensors)))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        totals = ("is_equal", "elements", "differing", "nonfinite", "largest", "relative")
        return plain(
            {"first": str(self.first), "second": str(self.second)}
            | {key: getattr(self, key) for key in totals}
            | {"only_first": self.only_first, "only_second": self.only_second}
            | {"tensors": [dataclasses.asdict(tensor) | {"relative": tensor.relative} for tensor in self.tensors]}
        )


def diff(first: str | Path, second: str | Path, *, listener: Listener = SILENT) -> Differences:
    """Compare two models, vectors, adapters or other safetensors files, name by name and element by element.

    :param first: A ``.safetensors`` file, a LoRA folder, or a model: folder, hub id or GGUF.
    :param second: Another; how either is cut into shards does not matter.
    :param listener: Receives progress updates.
    :raises CheckpointError: One of them is missing, or cannot be read safely.
    :raises VectorError: One is a pickled adapter.
    """
    a, b = open_contents(str(first), listener), open_contents(str(second), listener)
    pairs = [(entry, b.tensors[name]) for name, entry in a.tensors.items() if name in b.tensors]
    with TensorReader() as reader:
        found = go_through(
            pairs, lambda pair: _compare(*pair, reader), lambda pair: pair[0].nbytes, listener, "comparing"
        )
    return Differences(
        a.path,
        b.path,
        tuple(name for name in a.tensors if name not in b.tensors),
        tuple(name for name in b.tensors if name not in a.tensors),
        tuple(found),
    )


def _compare(a: TensorEntry | PackedEntry, b: TensorEntry | PackedEntry, reader: TensorReader) -> TensorDifference:
    about = (a.name, (a.shape, b.shape), (a.dtype, b.dtype))
    floats = a.is_float and b.is_float
    if a.shape != b.shape or not (floats or a.dtype == b.dtype):
        return TensorDifference(*about, False, a.elements, None, None, None, None, None)
    count, distance, size = 0, Magnitude(), Magnitude()
    with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinities, and differences beyond the largest float64
        for left, right in zip(raw_chunks(reader, a), raw_chunks(reader, b), strict=True):
            if floats:
                size.add(decode(left, a.dtype))
            if a.dtype == b.dtype and left == right:
                continue
            differ = _bits(left, a.dtype, b.dtype) != _bits(right, b.dtype, a.dtype)
            count += int(np.count_nonzero(differ))
            if floats:
                distance.add(decode(left, a.dtype)[differ] - decode(right, b.dtype)[differ])
    is_equal = a.dtype == b.dtype and count == 0
    if not floats:
        return TensorDifference(*about, is_equal, a.elements, count, None, None, None, None)
    return TensorDifference(
        *about, is_equal, a.elements, count, distance.nonfinite, distance.largest, distance.norm, size.norm
    )


def _bits(data: bytes | bytearray, dtype: str, other: str) -> np.ndarray:
    """Return elements as integers of the same bits; those of two dtypes are widened before."""
    return np.frombuffer(data, f"<u{ITEM_SIZES[dtype]}") if dtype == other else decode(data, dtype).view("<u8")


def _ratio(distance: float | None, norm: float | None) -> float | None:
    if distance is None or norm is None:
        return None
    if norm == 0:
        return 0.0 if distance == 0 else None
    return distance / norm
