"""Relations of task vectors as weights, in one chunked pass over their deltas.

Sums are taken in float64, in an order independent of the number of threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from taskarith.architecture.module_kinds import KINDS, kinds_of
from taskarith.arithmetic.calculator import Calculator, Products
from taskarith.arithmetic.parallel import Workers, chunks, work_through
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader, check_unchanged
from taskarith.edit.inputs import NOTHING, gather, kernels_for, open_inputs, term_fingerprints
from taskarith.edit.scales import layer_places
from taskarith.errors import MismatchError, name_some
from taskarith.progress import Listener
from taskarith.relations.vectors import Related
from taskarith.vectors.file import check_delta

__all__ = ["TOP_SHARES", "Group", "TensorRelation", "WeightRelations", "relate_weights"]

TOP_SHARES = (0.01, 0.1)
"""Shares of the largest entries whose overlap is measured."""

_CHUNK = 1 << 17
"""Elements per chunk: whole kernel blocks, so few that those of several vectors stay in a core's cache."""

_SAMPLE = 1 << 22
"""Maximum entries on which signs and overlaps are counted, evenly spaced over a large vector."""


@dataclass(frozen=True)
class Group:
    """Sums over some tensors for all pairs of vectors.

    :param gram: Inner products, vectors x vectors, float64.
    :param agreeing: Number of sampled entries in which two vectors have the same sign, vectors x vectors.
    :param opposing: Number in which they have opposite signs; entries that are 0 in either count in neither.
    """

    gram: np.ndarray
    agreeing: np.ndarray
    opposing: np.ndarray

    @property
    def norms(self) -> list[float]:
        """Euclidean norm of each vector."""
        return [math.sqrt(max(float(square), 0.0)) for square in np.diag(self.gram)]

    def cosine(self, i: int, j: int) -> float | None:
        """Return the cosine of two vectors; None if either is zero."""
        size = self.norms[i] * self.norms[j]
        return max(-1.0, min(1.0, float(self.gram[i, j]) / size)) if size else None

    def sign_agreement(self, i: int, j: int) -> float | None:
        """Return the share of entries with the same sign among those nonzero in both; None without any."""
        both = int(self.agreeing[i, j] + self.opposing[i, j])
        return int(self.agreeing[i, j]) / both if both else None

    def interference(self, i: int, j: int) -> float | None:
        """Return the share of energy that cancels in the sum: ``1 - |a + b|^2 / (|a|^2 + |b|^2)``, from -1 to 1.

        Below 0 they reinforce each other. None if both are zero.
        """
        energy = float(self.gram[i, i] + self.gram[j, j])
        return -2.0 * float(self.gram[i, j]) / energy if energy else None


@dataclass(frozen=True)
class TensorRelation:
    """One tensor: its name, kind and layer (None outside the layers), and its sums."""

    name: str
    kind: str
    layer: int | None
    elements: int
    sums: Group = field(repr=False)


@dataclass(frozen=True)
class WeightRelations:
    """Relations of vectors as weights.

    :param names: Names of the vectors.
    :param tensors: Every tensor that a vector changes, in the order of the base.
    :param overlaps: For each of ``TOP_SHARES``, the share of one vector's largest entries that are among the other's,
        vectors x vectors; NaN if either has none.
    :param sampled: Number of entries on which signs and overlaps were counted.
    """

    names: tuple[str, ...]
    tensors: tuple[TensorRelation, ...]
    overlaps: dict[float, np.ndarray]
    sampled: int

    @property
    def elements(self) -> int:
        """Number of entries of a vector."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def layers(self) -> list[int]:
        """Layers that a vector changes."""
        return sorted({tensor.layer for tensor in self.tensors if tensor.layer is not None})

    @property
    def kinds(self) -> list[str]:
        """Kinds of modules that a vector changes."""
        present = {tensor.kind for tensor in self.tensors}
        return [kind for kind in KINDS if kind in present]

    def group(self, chosen: Callable[[TensorRelation], bool] = lambda _: True) -> Group:
        """Return the sums over chosen tensors, by default all."""
        parts = [tensor.sums for tensor in self.tensors if chosen(tensor)]
        shape = (len(self.names), len(self.names))
        gram = [[math.fsum(part.gram[i, j] for part in parts) for j in range(shape[1])] for i in range(shape[0])]
        counts = [
            sum((getattr(part, key) for part in parts), np.zeros(shape, np.int64)) for key in ("agreeing", "opposing")
        ]
        return Group(np.array(gram), *counts)

    def of_kind(self, kind: str) -> Group:
        """Return the sums over one of ``kinds``."""
        return self.group(lambda tensor: tensor.kind == kind)

    def of_layer(self, layer: int) -> Group:
        """Return the sums over one of ``layers``."""
        return self.group(lambda tensor: tensor.layer == layer)

    def without_embeddings(self) -> Group:
        """Return the sums over all tensors except embeddings and the head."""
        return self.group(lambda tensor: tensor.kind not in {"embedding", "head"})


def relate_weights(related: Related, listener: Listener) -> WeightRelations:
    """Read all vectors once, in chunks, and calculate their inner products tensor by tensor.

    :raises MismatchError: A delta has values that are not finite, or an exact vector has a different base.
    """
    tensors = [
        entry
        for name, entry in related.checkpoint.tensors.items()
        if any(name in operand.vector.shapes for operand in related.operands)
    ]
    total = sum(entry.elements for entry in tensors)
    sample = _Sample(len(related.operands), total)
    starts = dict(zip((e.name for e in tensors), np.cumsum([0, *(e.elements for e in tensors)])[:-1], strict=True))
    sums_of: dict[str, Group] = {}
    broken: list[str] = []
    states = related.states()
    with TensorReader() as reader:

        def do(entry: TensorEntry, calculator: Calculator, stop: threading.Event) -> int:
            sums = _relate_tensor(related, entry, calculator, reader, sample, int(starts[entry.name]), stop)
            if sums is None:
                broken.append(entry.name)
            else:
                sums_of[entry.name] = sums
            return entry.elements

        largest_first = sorted(tensors, key=lambda entry: -entry.elements)
        kernels = kernels_for("inner_products", (operand.vector for operand in related.operands))
        work_through(largest_first, do, listener, "relating weights", total, Workers(chunk=_CHUNK, kernels=kernels))
    if broken:
        raise MismatchError(
            f"{len(broken)} deltas have values that are not finite or too large: {name_some(sorted(broken))}",
            "Find infinite, NaN or huge values of the vectors or their models with taskarith inspect.",
        )
    check_unchanged(states)
    layers, kinds = layer_places(related.checkpoint.tensors), kinds_of(related.checkpoint, listener)
    relations = tuple(
        TensorRelation(e.name, kinds[e.name], layers[e.name][0] if e.name in layers else None, e.elements, sums)
        for e in tensors
        if (sums := sums_of.get(e.name)) is not None
    )
    return WeightRelations(related.names, relations, sample.overlaps(), sample.count)


def _relate_tensor(
    related: Related,
    entry: TensorEntry,
    calculator: Calculator,
    reader: TensorReader,
    sample: _Sample,
    first: int,
    stop: threading.Event,
) -> Group | None:
    """Return the sums of one tensor, whose first entry has the index ``first``; None on stop or if not finite."""
    moving = [index for index, operand in enumerate(related.operands) if entry.name in operand.vector.shapes]
    operands = [related.operands[index] for index in moving]
    deltas = [(operand.coefficient, operand.vector.delta(entry.name)) for operand in operands]
    calculation = gather(NOTHING, entry.shape, deltas, "F64")
    products = sample.products(first, entry.elements, len(moving))
    calculator.begin(calculation.recipe)
    inputs = open_inputs(calculation, reader, calculator)
    for start, end in chunks(entry.elements, _CHUNK):
        if stop.is_set():
            return None
        for index, tensor in enumerate(inputs[1:], 1):  # there is no base to read
            tensor.read_into(calculator.room(index, end - start))
        calculator.inner_products(start, end, products)
    for operand, fingerprint in zip(operands, term_fingerprints(calculation, inputs), strict=True):
        check_delta(operand.vector, entry.name, entry.shape, fingerprint)
    sample.keep(first, moving, products.few)
    return _group(len(related.operands), moving, products) if np.isfinite(products.sums).all() else None


def _group(vectors: int, moving: Sequence[int], products: Products) -> Group:
    """Expand the sums of the vectors that change a tensor to all vectors; the others' are zero."""
    group = Group(*(np.zeros((vectors, vectors), dtype) for dtype in (np.float64, np.int64, np.int64)))
    up, down = products.few > 0, products.few < 0
    for a, i in enumerate(moving):
        for b, j in enumerate(moving[: a + 1]):
            agreeing = np.count_nonzero(up[a] & up[b]) + np.count_nonzero(down[a] & down[b])
            opposing = np.count_nonzero(up[a] & down[b]) + np.count_nonzero(down[a] & up[b])
            values = products.sums[a, b], agreeing, opposing
            for table, value in zip((group.gram, group.agreeing, group.opposing), values, strict=True):
                table[i, j] = table[j, i] = value
    return group


class _Sample:
    """Evenly spaced entries of all vectors, the same for each, independent of chunks and threads.

    :param vectors: Number of vectors.
    :param total: Number of entries of each.
    """

    def __init__(self, vectors: int, total: int) -> None:
        self._step = max(1, -(-total // _SAMPLE)) | 1  # odd: rows have even lengths
        self.count = -(-total // self._step)
        self._values = np.zeros((vectors, self.count), np.float32)

    def products(self, first: int, elements: int, terms: int) -> Products:
        """Return a collector for a tensor whose first entry has the index ``first``."""
        begin = -first % self._step
        few = np.zeros((terms, len(range(begin, elements, self._step))), np.float32)
        return Products(np.zeros((terms, terms)), few, begin, self._step)

    def keep(self, first: int, vectors: Sequence[int], few: np.ndarray) -> None:
        """Store the magnitudes of the sampled entries of a tensor whose first entry has the index ``first``."""
        offset = -(-first // self._step)
        for vector, chosen in zip(vectors, few, strict=True):
            self._values[vector, offset : offset + len(chosen)] = np.abs(chosen)

    def overlaps(self) -> dict[float, np.ndarray]:
        """Return the overlap of the largest entries of all pairs; entries of equal magnitude count together."""
        count = len(self._values)
        overlaps = {}
        for share in TOP_SHARES:
            tops = [self._largest(index, share) for index in range(count)]
            table = np.full((count, count), np.nan)
            for i in range(count):
                for j in range(count):
                    smaller = min(np.count_nonzero(tops[i]), np.count_nonzero(tops[j]))
                    if smaller:
                        table[i, j] = np.count_nonzero(tops[i] & tops[j]) / smaller
            overlaps[share] = table
        return overlaps

    def _largest(self, index: int, share: float) -> np.ndarray:
        sizes = self._values[index]
        if not len(sizes):
            return np.zeros(0, bool)
        rank = len(sizes) - max(1, round(share * len(sizes)))
        return sizes >= max(np.partition(sizes, rank)[rank], np.finfo(np.float32).smallest_subnormal)
