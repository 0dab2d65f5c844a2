"""A linear combination of LoRA adapters as one adapter: their factors side by side, so that nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskarith.architecture.layout import Architecture
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.operands import Operand
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.merging.overflow import naming_overflow
from taskarith.progress import Listener
from taskarith.vectors.lora.adapter import AdapterVector
from taskarith.vectors.lora.layout import first_layout
from taskarith.vectors.lora.parts import load_values
from taskarith.vectors.lora.peft_layout import tried_layout
from taskarith.vectors.lora.write import pack_factors, write_adapter
from taskarith.vectors.ties import tied_tensors
from taskarith.vectors.vector import BaseRecord

__all__ = ["CombinedFactors", "combine_factors"]

_DENSE = "Write a dense vector instead: -o mixed.safetensors"


@dataclass(frozen=True)
class CombinedFactors:
    """What was written.

    :param ranks: Rank of each tensor.
    :param nbytes: Size of the weights.
    :param energy: Share of the sum of squares that a lower rank keeps; 1 where nothing was left out.
    """

    ranks: Mapping[str, int]
    nbytes: int
    energy: float


def combine_factors(
    base: Checkpoint,
    record: BaseRecord,
    operands: Sequence[Operand],
    folder: Path,
    *,
    dtype: str,
    rank: int | None,
    listener: Listener,
) -> CombinedFactors:
    """Write ``sum c_i s_i B_i A_i`` as an adapter folder: every B, times its coefficient and scale, beside the others.

    The sum is exact but for the rounding of the factors to ``dtype``. With a ``rank`` it is the best approximation of
    that rank (Eckart and Young, Psychometrika 1, 1936), found from the QR decompositions of both stacks.

    :param base: The model that the adapters belong to.
    :param record: How it is recorded.
    :param operands: Adapters.
    :param folder: An empty folder.
    :param dtype: Of the factors, as safetensors names it.
    :param rank: The most that a tensor gets; None keeps the sum of the ranks.
    :param listener: Receives progress updates.
    :raises UsageError: An operand is not an adapter, or moves something that has no factors.
    :raises MismatchError: A factor is not finite.
    """
    architecture = _architecture(base, operands)
    stacks = {name: _stack(name, operands) for name in architecture.parameters if _moves(name, operands)}
    kept, total = [], []
    if rank is not None:
        for index, (name, (lefts, rights)) in enumerate(stacks.items()):
            listener.progress("combining", index, len(stacks))
            for expert, (left, right) in enumerate(zip(lefts, rights, strict=True)):
                if rank < left.shape[1]:
                    with naming_overflow(name):
                        lefts[expert], rights[expert], *energy = _recompressed(left, right, rank)
                    kept.append(energy[0])
                    total.append(energy[1])
    ranks = {name: lefts[0].shape[1] for name, (lefts, _) in stacks.items()}
    layout = tried_layout(first_layout(architecture, base, (), ranks, {}), base, ())
    if lost := [name for name in ranks if name not in layout.ranks]:
        raise UsageError(f"PEFT cannot hold factors of {len(lost)} parameters: {name_some(lost)}", _DENSE)

    def factors(name: str) -> tuple[bytes, bytes]:
        one = architecture.parameters[name]
        return pack_factors(*stacks[name], bool(one.is_transposed) or one.kind == "embedding", dtype)

    size = write_adapter(folder, layout, record, dtype, factors, {})
    energy = math.fsum(kept) / math.fsum(total) if math.fsum(total) else 1.0
    named = {architecture.tensor_of(name) or name: rank for name, rank in ranks.items()}
    return CombinedFactors(named, size, energy)


def _architecture(base: Checkpoint, operands: Sequence[Operand]) -> Architecture:
    """Return the architecture of all operands, which move nothing but what has factors."""
    adapters = [one.vector for one in operands if isinstance(one.vector, AdapterVector)]
    if strangers := [one.vector.name for one in operands if not isinstance(one.vector, AdapterVector)]:
        raise UsageError(
            f"a folder holds a sum of LoRA adapters, and these are not adapters: {name_some(strangers)}", _DENSE
        )
    first = adapters[0].architecture
    if any(one.architecture.model_class != first.model_class for one in adapters):
        names = ", ".join(sorted({one.architecture.model_class or "no known class" for one in adapters}))
        raise UsageError(f"the adapters name their modules after different classes: {names}", _DENSE)
    with TensorReader() as reader:
        tied = tied_tensors(base, first, reader, {name for one in adapters for name in one.shapes})
    odd = {name for one in adapters for name in one.others}
    odd |= {name for one in adapters for name in one.shapes if name in tied}
    if odd:
        raise UsageError(f"{len(odd)} tensors have no factors of their own: {name_some(sorted(odd))}", _DENSE)
    return first


def _moves(name: str, operands: Sequence[Operand]) -> bool:
    return any(isinstance(one.vector, AdapterVector) and name in one.vector.products for one in operands)


def _stack(name: str, operands: Sequence[Operand]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return all factors of a parameter side by side, float64: rows x (sum of ranks), (sum of ranks) x columns.

    There is one pair of them for each expert that the parameter has.
    """
    lefts, rights = [], []
    for operand in operands:
        if not isinstance(operand.vector, AdapterVector) or name not in operand.vector.products:
            continue
        factors, _ = operand.vector.products[name].low_rank(load_values)
        shape = factors.left.shape[0] // factors.blocks, factors.left.shape[1]
        lefts.append(factors.left.reshape(-1, *shape) * (operand.coefficient * factors.scale))
        rights.append(factors.right.reshape(factors.blocks, shape[1], -1))
    left, right = np.concatenate(lefts, axis=2), np.concatenate(rights, axis=1)
    if not np.isfinite(left).all() or not np.isfinite(right).all():
        raise MismatchError(f"the factors of {name} are not finite", "Check the coefficients and the adapters.")
    return list(left), list(right)


def _recompressed(left: np.ndarray, right: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return the best factors of a rank, the sum of squares that they keep, and the whole one."""
    (q, r), (p, s) = np.linalg.qr(left), np.linalg.qr(right.T)
    u, sizes, v = np.linalg.svd(r @ s.T, full_matrices=False)
    roots = np.sqrt(sizes[:rank])
    squares = sizes**2
    return (
        (q @ u[:, :rank]) * roots,
        roots[:, None] * (v[:rank] @ p.T),
        float(squares[:rank].sum()),
        float(squares.sum()),
    )
