"""Iso-C, TSV-Merge, WUDI and low rank: operators that need whole matrices, by way of their singular values.

Everything is float64, and torch runs on one thread, so that no bit depends on the number of threads; on a GPU the last
bits may be others. Tensors that are no matrices take the mean of the weighted deltas, as the papers' code does.
Sources: Iso-C, arXiv:2502.04959; TSV-Merge, arXiv:2412.00081; WUDI, arXiv:2503.08099;
low rank, corollary 1 of arXiv:2504.10957.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import xxhash

from taskarith.merging.operator import Setting, SinglePass
from taskarith.merging.sums import ordered_sum

__all__ = ["IsoC", "LowRank", "Tsv", "Wudi", "from_gram", "iso_c", "low_rank", "tsv", "wudi"]

_ORTHOGONAL = 1e-8
"""How far the products of singular vectors may be from those of orthonormal ones."""


def iso_c(deltas: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """Add up the matrices and set all singular values of the sum to their mean, but those that are zero.

    Zeros count for the mean; they have no direction, and what is calculated for one is an accident of rounding.

    :param deltas: float64, rows x columns, weighted.
    :param device: Where to calculate.
    """
    left, values, right = _svd(_on(device, ordered_sum(deltas)))
    rank = _rank(values, deltas[0].shape)
    return _back((left[:, :rank] * values.mean()) @ right[:rank])


def tsv(deltas: Sequence[np.ndarray], count: int, device: str = "cpu") -> np.ndarray:
    """Keep an equal share of the singular vectors of each matrix, and make all that is kept orthogonal together.

    Of each delta the first ``min(rows, columns) // count`` singular triplets, at least one, stand side by side, without
    those whose value is zero; left and right vectors are replaced by the nearest orthonormal ones (Procrustes). One
    operand alone stays as it is.

    :param deltas: float64, rows x columns, weighted.
    :param count: Number of operands.
    :param device: Where to calculate.
    """
    if count == 1:
        return deltas[0]
    share = max(1, min(deltas[0].shape) // count)
    parts = [_svd(_on(device, delta)) for delta in _by_content(deltas)]
    kept = [min(share, _rank(part[1], deltas[0].shape)) for part in parts]
    left = torch.cat([part[0][:, :few] for part, few in zip(parts, kept, strict=True)], 1)
    values = torch.cat([part[1][:few] for part, few in zip(parts, kept, strict=True)])
    right = torch.cat([part[2][:few] for part, few in zip(parts, kept, strict=True)], 0)
    return _back((_orthonormal(left) * values) @ _orthonormal(right))


def wudi(deltas: Sequence[np.ndarray], count: int, device: str = "cpu") -> np.ndarray:
    """Return the matrix that disturbs each delta least on that delta's own inputs, which its rows span.

    It minimises ``sum_i |(merged - delta_i) delta_i^T|^2 / |delta_i|^2``. The paper takes 300 steps of Adam from the
    sum of the deltas; this is the minimum itself, the one nearest to that sum. One operand alone stays as it is.

    :param deltas: float64, rows x columns, weighted.
    :param count: Number of operands.
    :param device: Where to calculate.
    """
    present = [delta for delta in deltas if delta.any()]
    if count == 1 or len(present) < 2:
        return ordered_sum(deltas)
    matrices = [_on(device, delta) for delta in present]
    grams = [matrix.T @ matrix / torch.sum(matrix * matrix) for matrix in matrices]
    total = _on(device, ordered_sum(deltas))
    weight = _on(device, ordered_sum([_back(gram) for gram in grams]))
    pull = [_back((matrix - total) @ gram) for matrix, gram in zip(matrices, grams, strict=True)]
    values, vectors = torch.linalg.eigh(weight)
    is_large = values > values.max() * len(values) * torch.finfo(torch.float64).eps
    vectors, values = vectors[:, is_large], values[is_large]
    step = (_on(device, ordered_sum(pull)) @ vectors / values) @ vectors.T
    return _back(total + step)


def low_rank(delta: np.ndarray, rank: int, device: str = "cpu") -> np.ndarray:
    """Return the best approximation of a matrix by one of a rank (Eckart and Young).

    :param delta: float64, rows x columns.
    :param rank: 1 or more.
    :param device: Where to calculate.
    """
    if rank >= min(delta.shape):
        return delta
    left, values, right = _svd(_on(device, delta))
    return _back((left[:, :rank] * values[:rank]) @ right[:rank])


def from_gram(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Return the thin singular value decomposition by way of the Gram matrix, which suits a GPU.

    That squares the singular values: rounding spoils the vectors of those that are small beside the largest.

    :param matrix: float64, rows x columns.
    :returns: As ``torch.linalg.svd``, the values in descending order; None where the vectors are not orthonormal.
    """
    if len(matrix) < matrix.shape[1]:
        turned = from_gram(matrix.T)
        return turned and (turned[2].T, turned[1], turned[0].T)
    gram = matrix.T @ matrix
    if not gram.numel() or not bool(gram.isfinite().all()):
        return None
    right = torch.linalg.eigh(gram).eigenvectors.flip(1)
    images = matrix @ right
    values = torch.linalg.vector_norm(images, dim=0)
    left = images / values
    products = left.T @ left
    products.diagonal().sub_(1.0)
    return (left, values, right.T) if bool(products.abs().max() <= _ORTHOGONAL) else None


class _WholeMatrices(SinglePass, ABC):
    """Base of operators that merge whole matrices; all other tensors take the mean of the weighted deltas."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.span = setting.elements if len(setting.shape) == 2 else 1

    def merge(self, start: int, deltas: Sequence[np.ndarray], base: np.ndarray | None) -> np.ndarray:
        """Return what is added to the base."""
        del start, base
        parts, shape = self._weighted(deltas)[0], self._setting.shape
        if len(shape) != 2:
            return self._merge_others(parts)
        return self._merge_matrices([part.reshape(shape) for part in parts]).ravel()

    @abstractmethod
    def _merge_matrices(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        """Return the merged matrix."""

    def _merge_others(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return ordered_sum(parts) / self._setting.count


class IsoC(_WholeMatrices):
    """Merge by ``iso_c``."""

    def _merge_matrices(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        return iso_c(matrices, self._setting.device)


class Tsv(_WholeMatrices):
    """Merge by ``tsv``."""

    def _merge_matrices(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        return tsv(matrices, self._setting.count, self._setting.device)


class Wudi(_WholeMatrices):
    """Merge by ``wudi``."""

    def _merge_matrices(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        return wudi(matrices, self._setting.count, self._setting.device)


class LowRank(_WholeMatrices):
    """Add the weighted deltas, each matrix replaced by its best approximation of a rank; all else is kept whole."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._rank = setting.method.rank or 1

    def _merge_matrices(self, matrices: Sequence[np.ndarray]) -> np.ndarray:
        return ordered_sum([low_rank(matrix, self._rank, self._setting.device) for matrix in matrices])

    def _merge_others(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return ordered_sum(parts)


def _orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    left, _, right = _svd(matrix)
    return left @ right


def _rank(values: torch.Tensor, shape: Sequence[int]) -> int:
    """Return how many singular values are more than rounding, as numpy's ``matrix_rank`` has it."""
    largest = float(values.max()) if len(values) else 0.0
    return int((values > largest * max(shape) * torch.finfo(torch.float64).eps).sum())


def _svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = from_gram(matrix) if matrix.device.type != "cpu" else None
    return found or tuple(torch.linalg.svd(matrix, full_matrices=False))


def _on(device: str, matrix: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(matrix).to(device)


def _back(matrix: torch.Tensor) -> np.ndarray:
    return matrix.cpu().numpy()


def _by_content(matrices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return matrices in an order that depends on nothing but what is in them."""
    return sorted(matrices, key=lambda matrix: xxhash.xxh3_128_digest(np.ascontiguousarray(matrix).data))
