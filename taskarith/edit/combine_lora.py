"""A linear combination of LoRA adapters as one adapter: their factors side by side, so that nothing is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskarith.arithmetic.wide import encode
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, build_header
from taskarith.checkpoints.writer import sized_files, write_at
from taskarith.edit.operands import Operand
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import Listener
from taskarith.vectors.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from taskarith.vectors.folder import FolderLayout, Naming, adapter_config
from taskarith.vectors.form import BaseRecord, Factored

__all__ = ["CombinedFactors", "combine_factors"]


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
    :param listener: Told about progress.
    :raises UsageError: An operand is no adapter, or moves something that has no factors.
    :raises MismatchError: A factor is not finite.
    """
    naming = Naming(base)
    tensors = [name for name in base.tensors if any(one.delta_of(name) == name for one in operands)]
    _check(base, naming, tensors, operands)
    stacks = {name: _stack(name, operands) for name in tensors}
    ranks = {name: left.shape[1] for name, (left, _) in stacks.items()}
    if rank is not None:
        ranks = {name: min(rank, own, *base.tensors[name].shape) for name, own in ranks.items()}
    shapes = {}
    for name in tensors:
        rows, columns = base.tensors[name].shape
        outputs, inputs = (columns, rows) if naming.is_transposed(name) else (rows, columns)
        shapes |= dict(zip(naming.factor_names(name), ((ranks[name], inputs), (outputs, ranks[name])), strict=True))
    header, offsets = build_header([(name, dtype, shapes[name]) for name in sorted(shapes)], {"format": "pt"})
    size = len(header) + sum(math.prod(shape) * ITEM_SIZES[dtype] for shape in shapes.values())
    kept, total = [], []
    with sized_files({folder / ADAPTER_WEIGHTS: size}) as files:
        write_at(files[folder / ADAPTER_WEIGHTS], header, 0)
        for index, name in enumerate(tensors):
            listener.progress("combining", index, len(tensors))
            left, right = stacks[name]
            if ranks[name] < left.shape[1]:
                left, right, *energy = _recompressed(left, right, ranks[name])
                kept.append(energy[0])
                total.append(energy[1])
            b, a = (right.T, left.T) if naming.is_transposed(name) else (left, right)
            for side, factor in zip(naming.factor_names(name), (a, b), strict=True):
                data = encode(np.ascontiguousarray(factor).ravel(), dtype)
                write_at(files[folder / ADAPTER_WEIGHTS], data, offsets[side])
    config = adapter_config(naming, base, record.name, record.revision, ranks, FolderLayout())
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    energy = math.fsum(kept) / math.fsum(total) if math.fsum(total) else 1.0
    return CombinedFactors(ranks, size, energy)


def _check(base: Checkpoint, naming: Naming, tensors: Sequence[str], operands: Sequence[Operand]) -> None:
    hint = "Write a dense vector instead: -o mixed.safetensors"
    strangers = [one.vector.name for one in operands if one.vector.kind != "lora"]
    if strangers:
        raise UsageError(f"a folder holds a sum of adapters, and these are none: {name_some(strangers)}", hint)
    odd = [name for name in tensors if len(base.tensors[name].shape) != 2 or not naming.takes_factors(name)]
    odd += [name for one in operands for name in one.vector.shapes if name in tensors and _has_none(one, name)]
    if odd:
        raise UsageError(f"{len(set(odd))} tensors have no factors of their own: {name_some(sorted(set(odd)))}", hint)


def _has_none(operand: Operand, name: str) -> bool:
    delta = operand.vector.delta(name)
    return not isinstance(delta, Factored) or delta.factors.blocks != 1


def _stack(name: str, operands: Sequence[Operand]) -> tuple[np.ndarray, np.ndarray]:
    """Return all factors of a tensor side by side, float64: rows x (sum of ranks), (sum of ranks) x columns."""
    lefts, rights = [], []
    for operand in operands:
        if name in operand.vector.shapes and isinstance(delta := operand.vector.delta(name), Factored):
            lefts.append(delta.factors.left * (operand.coefficient * delta.factors.scale))
            rights.append(delta.factors.right)
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)
    if not np.isfinite(left).all():
        raise MismatchError(f"the factors of {name} are not finite", "Check the coefficients and the adapters.")
    return left, right


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
