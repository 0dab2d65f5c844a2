"""Overlap of the leading singular subspaces of two vectors' deltas, matrix by matrix."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from taskarith.arithmetic.calculator import Calculator
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Workers, matrices_at_once, work_through
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.team import ALONE, Team
from taskarith.edit.inputs import NOTHING, OpenInput, gather, kernels_for, open_inputs
from taskarith.errors import MismatchError, UsageError
from taskarith.progress import Listener
from taskarith.relations.vectors import Related
from taskarith.vectors.svd import best_fit
from taskarith.vectors.vector import Delta

__all__ = ["SubspaceRelation", "relate_subspaces"]


@dataclass(frozen=True)
class SubspaceRelation:
    """Two vectors' best low-rank approximations of one matrix, compared.

    :param tensor: The matrix.
    :param pair: Indices of the vectors.
    :param outputs: Cosines of the principal angles of the leading left singular subspaces, in descending order.
    :param inputs: Those of the right singular subspaces.
    :param shared: Share of one approximation's energy that lies in both subspaces of the other, averaged over both
        directions.
    """

    tensor: str
    pair: tuple[int, int]
    outputs: tuple[float, ...]
    inputs: tuple[float, ...]
    shared: float


def relate_subspaces(
    related: Related, rank: int, listener: Listener, team: Team = ALONE, device: str = "cpu"
) -> tuple[SubspaceRelation, ...]:
    """Compare the leading subspaces of every matrix that two vectors change.

    :param rank: Maximum dimension of a subspace.
    :param team: The processes that make this call and share the matrices.
    :param device: Where they are decomposed: cpu or cuda[:N].
    :raises UsageError: The rank is below 1.
    :raises MismatchError: A delta is not finite.
    """
    if rank < 1:
        raise UsageError(f"--rank {rank} is out of range", "Use 1 or more.")
    matrices = [
        entry
        for name, entry in related.checkpoint.tensors.items()
        if len(entry.shape) == 2 and sum(name in operand.vector.shapes for operand in related.operands) > 1
    ]
    relations: dict[str, list[SubspaceRelation]] = {}
    with TensorReader() as reader:

        def do(entry: TensorEntry, calculator: Calculator, stop: threading.Event) -> int:
            fits = {}
            for index, operand in enumerate(related.operands):
                if entry.name in operand.vector.shapes and not stop.is_set():
                    fits[index] = _leading(entry, operand.vector.delta(entry.name), rank, calculator, reader, device)
            relations[entry.name] = _compare(entry.name, fits)
            return entry.elements

        largest_first = team.share(sorted(matrices, key=lambda entry: -entry.elements))
        total = sum(entry.elements for entry in largest_first)
        kernels = kernels_for("merge", (operand.vector for operand in related.operands))
        workers = Workers(count=matrices_at_once(device), uses_torch=True, kernels=kernels)
        work_through(largest_first, do, listener, "comparing subspaces", total, workers)
    found = {name: relation for share in team.gather(relations) for name, relation in share.items()}
    return tuple(relation for entry in matrices for relation in found[entry.name])


def _leading(
    entry: TensorEntry, delta: Delta, rank: int, calculator: Calculator, reader: TensorReader, device: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return orthonormal left (rows x k) and right (columns x k) singular vectors and the k singular values."""
    rows = _Rows(entry, delta, calculator, reader)
    shape = entry.shape[0], entry.shape[1]
    fit = best_fit(lambda *span: torch.from_numpy(rows.read(*span)), shape, rank, None, device)
    if fit is None:
        raise MismatchError(f"the delta of {entry.name} is not finite", "Check the vector with taskarith inspect.")
    left, right = fit.left.numpy(), fit.right.numpy().T
    sizes = [np.linalg.norm(side, axis=0) for side in (left, right)]
    return left / sizes[0], right / sizes[1], sizes[0] * sizes[1]


class _Rows:
    """Reads rows of a delta in float64, in order, possibly several times from the start."""

    def __init__(self, entry: TensorEntry, delta: Delta, calculator: Calculator, reader: TensorReader) -> None:
        self._calculation = gather(NOTHING, entry.shape, [(1.0, delta)], "F64")
        self._columns, self._calculator, self._reader = entry.shape[1], calculator, reader
        self._inputs: list[OpenInput] = []
        self._next = -1

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``, which continue the previous ones or start again."""
        if start != self._next:
            self._calculator.begin(self._calculation.recipe)
            self._inputs = open_inputs(self._calculation, self._reader, self._calculator)
        values = np.empty((stop - start) * self._columns)
        first = start * self._columns
        for begin in range(0, len(values), CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, len(values))
            for index, tensor in enumerate(self._inputs):
                tensor.read_into(self._calculator.room(index, end - begin))
            self._calculator.delta(self._calculation.recipe.terms[0], first + begin, first + end, values[begin:end])
        self._next = stop
        return values.reshape(stop - start, self._columns)


def _compare(tensor: str, fits: Mapping[int, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[SubspaceRelation]:
    relations = []
    for j, (left, right, sizes) in fits.items():
        for i in (index for index in fits if index < j):
            other_left, other_right, other_sizes = fits[i]
            if not (len(sizes) and len(other_sizes)):  # a delta of zeros has no subspace
                continue
            outputs, inputs = left.T @ other_left, right.T @ other_right
            energies = [
                float(np.sum((outputs * other_sizes @ inputs.T) ** 2) / np.sum(other_sizes**2)),
                float(np.sum((outputs.T * sizes @ inputs) ** 2) / np.sum(sizes**2)),
            ]
            angles = [
                tuple(float(min(cosine, 1.0)) for cosine in np.linalg.svd(side, compute_uv=False))
                for side in (outputs, inputs)
            ]
            relations.append(SubspaceRelation(tensor, (i, j), angles[0], angles[1], float(np.mean(energies))))
    return relations
