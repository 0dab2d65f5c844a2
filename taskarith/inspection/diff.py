"""The verb `diff`: compare two models, vectors or other safetensors files, tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import UsageError
from taskarith.inspection.magnitude import Magnitude, compare
from taskarith.inspection.open_tensors import PackedEntry, map_in_threads, open_contents, plain, raw_chunks
from taskarith.progress import SILENT, Listener

__all__ = ["Differences", "TensorDifference", "diff"]


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of both sides. Elements are compared if shapes agree and dtypes are equal or both floats.

    :param name: Its name.
    :param shapes: Shapes of both sides.
    :param dtypes: Dtypes of both sides, as in safetensors.
    :param is_equal: Whether shape, dtype and all bits agree.
    :param elements: Number of elements of the first side.
    :param differing: Number of elements whose bits differ (-0.0 and 0.0, too; as float64 if dtypes differ); None if
        not compared.
    :param nonfinite: Number of these whose difference is infinite or NaN, which the fields below leave out.
    :param largest: Largest absolute difference; None for integers and if not compared.
    :param distance: ``||a - b||``; None likewise.
    :param norm: ``||a||`` over its finite values; None likewise.
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
        """``||a - b|| / ||a||``; None if either is unknown, or a is zero and b is not."""
        return _ratio(self.distance, self.norm)


@dataclass(frozen=True)
class Differences:
    """The comparison of two sides, a and b.

    :param first: Path of a.
    :param second: Path of b.
    :param only_first: Names only in a, in its order.
    :param only_second: Names only in b, in its order.
    :param tensors: Tensors in both, in the order of a.
    """

    first: Path
    second: Path
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both have the same names with the same shapes, dtypes and bits."""
        return not (self.only_first or self.only_second or any(not tensor.is_equal for tensor in self.tensors))

    @property
    def elements(self) -> int:
        """Number of compared elements."""
        return sum(tensor.elements for tensor in self.tensors if tensor.differing is not None)

    @property
    def differing(self) -> int:
        """Number of elements that differ."""
        return sum(tensor.differing or 0 for tensor in self.tensors)

    @property
    def nonfinite(self) -> int:
        """Number of differing elements whose difference is infinite or NaN."""
        return sum(tensor.nonfinite or 0 for tensor in self.tensors)

    @property
    def largest(self) -> float:
        """Largest absolute difference of two floats."""
        return max((tensor.largest or 0.0 for tensor in self.tensors), default=0.0)

    @property
    def relative(self) -> float | None:
        """``||a - b|| / ||a||`` over all compared floats; None if a is zero and b is not."""
        distance = math.hypot(*(tensor.distance or 0.0 for tensor in self.tensors))
        return _ratio(distance, math.hypot(*(tensor.norm or 0.0 for tensor in self.tensors)))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        totals = ("is_equal", "elements", "differing", "nonfinite", "largest", "relative")
        return plain(
            {"first": str(self.first), "second": str(self.second)}
            | {key: getattr(self, key) for key in totals}
            | {"only_first": self.only_first, "only_second": self.only_second}
            | {"tensors": [dataclasses.asdict(tensor) | {"relative": tensor.relative} for tensor in self.tensors]}
        )


def diff(first: str | Path, second: str | Path, *, listener: Listener = SILENT) -> Differences:
    """Compare two models, vectors, adapters or other safetensors files, name by name and element by element.

    :param first: A ``.safetensors`` file, a LoRA folder, or a model (folder, hub id or GGUF file).
    :param second: Another; the sharding of either does not matter.
    :param listener: Receives progress updates.
    :raises CheckpointError: Either is missing, or cannot be read safely.
    :raises VectorError: Either is a pickled adapter.
    :raises UsageError: One is a vector, the other a model.
    """
    a, b = open_contents(str(first), listener), open_contents(str(second), listener)
    if {a.kind, b.kind} == {"vector", "model"}:
        vector, model = (first, second) if a.kind == "vector" else (second, first)
        raise UsageError(
            f"{vector} is a task vector, and {model} a model: their tensors mean different things",
            "Compare like with like, or write the edit: taskarith apply MODEL --add VECTOR",
        )
    pairs = [(entry, b.tensors[name]) for name, entry in a.tensors.items() if name in b.tensors]
    with TensorReader() as reader:
        differences = map_in_threads(
            pairs, lambda pair: _compare(*pair, reader), lambda pair: pair[0].nbytes, listener, "comparing"
        )
    return Differences(
        a.path,
        b.path,
        tuple(name for name in a.tensors if name not in b.tensors),
        tuple(name for name in b.tensors if name not in a.tensors),
        tuple(differences),
    )


def _compare(a: TensorEntry | PackedEntry, b: TensorEntry | PackedEntry, reader: TensorReader) -> TensorDifference:
    about = (a.name, (a.shape, b.shape), (a.dtype, b.dtype))
    floats = a.is_float and b.is_float
    if a.shape != b.shape or not (floats or a.dtype == b.dtype):
        return TensorDifference(*about, False, a.elements, None, None, None, None, None)
    count, distance, size = 0, Magnitude(), Magnitude()
    for left, right in zip(raw_chunks(reader, a), raw_chunks(reader, b), strict=True):
        count += compare(left, a.dtype, right, b.dtype, distance, size)
    is_equal = a.dtype == b.dtype and count == 0
    if not floats:
        return TensorDifference(*about, is_equal, a.elements, count, None, None, None, None)
    return TensorDifference(
        *about, is_equal, a.elements, count, distance.nonfinite, distance.largest, distance.norm, size.norm
    )


def _ratio(distance: float | None, norm: float | None) -> float | None:
    if distance is None or norm is None:
        return None
    if norm == 0:
        return 0.0 if distance == 0 else None
    return distance / norm
