"""The verb `inspect`: show what a vector, adapter, model or safetensors file holds, and how large its values are."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskarith.arithmetic.encoding import decode
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import VectorError
from taskarith.inspection.magnitude import Magnitude, measure
from taskarith.inspection.open_tensors import Contents, PackedEntry, map_in_threads, open_contents, plain, raw_chunks
from taskarith.progress import SILENT, Listener
from taskarith.tidy import Tabular
from taskarith.vectors.file import DenseVector, VectorFile
from taskarith.vectors.lora.adapter import adapter_factors
from taskarith.vectors.open import recorded_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["Inspection", "TargetSize", "TensorSize", "inspect"]

_LONG = ("base_tensors", "deltas", "errors", "shapes", "tensors")  # one entry per tensor, too long to show


@dataclass(frozen=True)
class TensorSize:
    """One tensor. The last four fields are None unless its dtype is a supported float.

    :param name: Its name in the file.
    :param dtype: Dtype as in safetensors.
    :param shape: Its shape.
    :param elements: Number of elements.
    :param nbytes: Number of bytes.
    :param norm: Euclidean norm of the finite values.
    :param largest: Largest absolute finite value.
    :param zeros: Number of zeros, of either sign.
    :param nonfinite: Number of values that are infinite or NaN.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int
    norm: float | None
    largest: float | None
    zeros: int | None
    nonfinite: int | None

    @property
    def rms(self) -> float | None:
        """Root mean square of the finite values."""
        if self.norm is None or self.nonfinite is None:
            return None
        return self.norm / math.sqrt(max(self.elements - self.nonfinite, 1))


@dataclass(frozen=True)
class TargetSize:
    """One weight that a LoRA adapter changes, by ``scale * B A``.

    :param name: The module.
    :param shape: Shape of the product, out x in.
    :param rank: Rank of the factors.
    :param scale: lora_alpha / rank, or as set by the adapter's configuration.
    :param norm: Euclidean norm of the change; None if a factor is not finite.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    scale: float
    norm: float | None


@dataclass(frozen=True, repr=False)
class Inspection(Tabular):
    """The contents of a path.

    :param path: The file or folder.
    :param kind: ``vector``, ``file`` (another safetensors file), ``model`` or ``adapter``.
    :param base: The recorded base, or None.
    :param record: The header of a file or the ``taskarith.json`` of a folder, without entries per tensor.
    :param tensors: Every tensor, in file order.
    :param targets: Weights that an adapter changes, in file order; empty for anything else.
    :param remarks: Reasons why it cannot be used.
    """

    path: Path
    kind: str
    base: BaseRecord | None
    record: Mapping[str, Any]
    tensors: tuple[TensorSize, ...]
    targets: tuple[TargetSize, ...]
    remarks: tuple[str, ...]

    def _brief(self) -> dict[str, object]:
        base = {} if self.base is None else {"base": str(self.base)}
        sizes = {"tensors": len(self.tensors), "elements": self.elements, "dtypes": self.dtypes, "norm": self.norm}
        return {"path": self.path, "kind": self.kind, **base, **sizes}

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row for each weight that an adapter changes, of anything else for each tensor."""
        return [dataclasses.asdict(one) for one in self.targets or self.tensors]

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors by dtype, the most frequent first."""
        return dict(Counter(tensor.dtype for tensor in self.tensors).most_common())

    @property
    def norm(self) -> float | None:
        """Euclidean norm of all finite values; for an adapter that of its change, or None if not finite."""
        parts = self.targets or [tensor for tensor in self.tensors if tensor.norm is not None]
        norms = [part.norm for part in parts if part.norm is not None]
        return math.hypot(*norms) if len(norms) == len(parts) else None

    @property
    def zeros(self) -> float:
        """Share of zeros among the floats."""
        measured = [tensor for tensor in self.tensors if tensor.zeros is not None]
        return sum(t.zeros or 0 for t in measured) / max(sum(t.elements for t in measured), 1)

    @property
    def nonfinite(self) -> int:
        """Number of values that are infinite or NaN."""
        return sum(tensor.nonfinite or 0 for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        totals = ("elements", "nbytes", "dtypes", "norm", "zeros", "nonfinite")
        base = self.base and self.base.to_json()
        return plain(
            {"path": str(self.path), "kind": self.kind, "base": base, "record": self.record}
            | {key: getattr(self, key) for key in totals}
            | {"tensors": [dataclasses.asdict(tensor) | {"rms": tensor.rms} for tensor in self.tensors]}
            | {"targets": [dataclasses.asdict(target) for target in self.targets], "remarks": self.remarks}
        )


def inspect(name: str | Path, *, listener: Listener = SILENT) -> Inspection:
    """Read a task vector, LoRA folder, model or any safetensors file in chunks, and measure its tensors.

    :param name: A ``.safetensors`` file, a LoRA folder, or a model (folder, hub id or GGUF file).
    :param listener: Receives progress updates.
    :raises CheckpointError: It does not exist, or cannot be read safely.
    :raises VectorError: It is a pickled adapter.
    """
    contents = open_contents(str(name), listener)
    base, factors, remarks = _base_and_factors(contents)
    entries = list(contents.tensors.values())
    with TensorReader() as reader:
        sizes = map_in_threads(entries, lambda e: _measure(e, reader), lambda e: e.nbytes, listener, "reading")
        targets = [_target(module, a, b, scale, reader) for module, (a, b, scale) in factors.items()]
    return Inspection(
        contents.path,
        contents.kind,
        base,
        {key: value for key, value in contents.record.items() if key not in _LONG},
        tuple(sizes),
        tuple(targets),
        remarks,
    )


def _base_and_factors(
    contents: Contents,
) -> tuple[BaseRecord | None, dict[str, tuple[TensorEntry, TensorEntry, float]], tuple[str, ...]]:
    """Return the base, LoRA factors and remarks; errors that would prevent its use become remarks."""
    if contents.kind == "file":
        return None, {}, ()
    try:
        if contents.kind == "vector":
            vector = DenseVector if contents.record.get("kind") == "dense" else VectorFile
            return vector(contents.path).base, {}, (contents.remark,) * bool(contents.remark)
        recorded = recorded_base(str(contents.path))
        factors = adapter_factors(contents.path) if contents.kind == "adapter" else {}
        return recorded.base if recorded else None, factors, ()
    except VectorError as error:
        return None, {}, (f"cannot be applied: {error.message}",)


def _measure(entry: TensorEntry | PackedEntry, reader: TensorReader) -> TensorSize:
    about = (entry.name, entry.dtype, entry.shape, entry.elements, entry.nbytes)
    if not entry.is_float:
        return TensorSize(*about, None, None, None, None)
    magnitude = Magnitude()
    for data in raw_chunks(reader, entry):
        measure(data, entry.dtype, magnitude)
    return TensorSize(*about, magnitude.norm, magnitude.largest, magnitude.zeros, magnitude.nonfinite)


def _target(module: str, a: TensorEntry, b: TensorEntry, scale: float, reader: TensorReader) -> TargetSize:
    return TargetSize(module, (b.shape[0], a.shape[1]), a.shape[0], scale, _product_norm(a, b, scale, reader))


def _product_norm(a: TensorEntry, b: TensorEntry, scale: float, reader: TensorReader) -> float | None:
    """Return ``||scale B A||``: its square is ``scale^2 sum((B^T B) * (A A^T))``, which is rank x rank."""
    with np.errstate(invalid="ignore"):
        left, right = (decode(reader.read(e, 0, e.nbytes), e.dtype).reshape(e.shape) for e in (b, a))
    units = [float(np.abs(side).max(initial=0.0)) for side in (left, right)]
    if not all(map(math.isfinite, units)):
        return None
    if not all(units):
        return 0.0
    left, right = left / units[0], right / units[1]  # so that squares do not overflow
    square = float(np.sum((left.T @ left) * (right @ right.T)))
    return abs(scale) * units[0] * units[1] * math.sqrt(max(square, 0.0))
