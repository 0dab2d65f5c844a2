"""TIES of LoRA adapters in their Core Space: small matrices instead of whole weights.

Source: Core Space merging, arXiv:2509.17786.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xxhash

from taskarith.arithmetic.calculator import LowRank
from taskarith.arithmetic.selection import Largest
from taskarith.merging.sums import elect
from taskarith.merging.ties_dare import kept_count

__all__ = ["core_matrices", "core_space"]


def core_matrices(factors: Sequence[LowRank]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return common orthonormal bases, and what each delta is in them: ``delta_i = left @ core_i @ right``.

    Nothing is lost: the bases span all columns of all left factors, and all rows of all right ones. Task arithmetic in
    this space is therefore task arithmetic, which ``linear`` does exactly; what is elected element by element differs.

    :param factors: Of one tensor.
    :returns: left, float64, rows x p; for each delta p x q; right, q x columns.
    """
    left = torch.linalg.svd(torch.from_numpy(np.concatenate([one.left for one in factors], 1)), full_matrices=False)[0]
    right = torch.linalg.svd(torch.from_numpy(np.concatenate([one.right for one in factors], 0)), full_matrices=False)[
        2
    ]
    cores = [
        (left.T @ torch.from_numpy(one.left)) @ (torch.from_numpy(one.right) @ right.T) * one.scale for one in factors
    ]
    return left.numpy(), [core.numpy() for core in cores], right.numpy()


def core_space(factors: Sequence[LowRank], weights: Sequence[float], alpha: float, density: float) -> LowRank:
    """Merge adapters by TIES in their Core Space; the result is of low rank again.

    Keep the largest ``max(1, floor(density n))`` of the n elements of each core matrix, multiply them by the weights,
    elect signs, take the mean of those that agree (see ``combine.elect``).

    :param factors: Of one tensor.
    :param weights: Coefficients, which alpha multiplies already.
    :param alpha: What all weights have in common.
    :param density: Share of the elements of each core matrix that is kept.
    """
    order = sorted(range(len(factors)), key=lambda index: _digest(factors[index]))  # bases have the bits of one order
    weights = [weights[index] for index in order]
    left, cores, right = core_matrices([factors[index] for index in order])
    parts = [weight * _largest(core.ravel(), density) for weight, core in zip(weights, cores, strict=True)]
    merged = elect(parts, weights, alpha, None).reshape(cores[0].shape)
    product = (torch.from_numpy(left) @ torch.from_numpy(merged)).numpy()
    return LowRank(np.ascontiguousarray(product), np.ascontiguousarray(right), 1.0)


def _largest(values: np.ndarray, density: float) -> np.ndarray:
    search = Largest(kept_count(density, len(values)), len(values))
    while not search.is_known:
        search.scan(values)
        search.end_scan()
    return np.where(search.mask(values), values, 0.0)


def _digest(factors: LowRank) -> bytes:
    state = xxhash.xxh3_128(factors.left.data)
    state.update(factors.right.data)
    state.update(float(factors.scale).hex().encode())
    return state.digest()
