"""The best approximation of a matrix by one of lower rank, from its Gram matrix.

The eigenvectors V of ``X^T X`` are the right singular vectors of X, the eigenvalues the squares of its singular values,
and ``X V_k V_k^T`` is the best approximation of rank k (Eckart and Young, "The approximation of one matrix by another
of lower rank", Psychometrika 1, 1936). Squaring loses singular values below 1e-8 of the largest; they hold no energy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["LowRankFit", "best_fit"]

_BLOCK = 1 << 20
"""Elements of the matrix that are read at a time."""


@dataclass(frozen=True)
class LowRankFit:
    """An approximation ``left @ right``.

    :param left: float64, rows x rank.
    :param right: float64, rank x columns; both share the singular values evenly.
    :param kept: Sum of the squares of the approximation.
    :param total: Sum of the squares of the matrix.
    """

    left: torch.Tensor
    right: torch.Tensor
    kept: float
    total: float

    @property
    def rank(self) -> int:
        """Number of singular values."""
        return len(self.right)


def best_fit(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    rank: int | None,
    energy: float | None,
    device: str = "cpu",
) -> LowRankFit | None:
    """Return the best approximation of a given rank, or the one of the least rank that keeps a share of the energy.

    A matrix with more rows than columns is read twice and never whole in memory; any other is held in float64.

    :param rows: Gives rows ``start`` to ``stop`` in float64.
    :param shape: Rows and columns.
    :param rank: At most so many singular values; those that are zero but for rounding are left out. Or None.
    :param energy: Share of the sum of squares that is to be kept, or None.
    :param device: Where to calculate, in float64.
    :returns: None if the sum of squares is not finite.
    """
    height, width = shape
    step = max(1, _BLOCK // max(width, 1))
    pieces = [(start, min(start + step, height)) for start in range(0, height, step)]

    def piece(start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(rows(start, stop)).to(device)

    if height >= width:
        gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        for span in pieces:
            part = piece(*span)
            gram.addmm_(part.T, part)
        if (vectors := _leading(gram, rank, energy)) is None:
            return None
        return _balanced(torch.cat([piece(*span) @ vectors for span in pieces]), vectors.T, gram)
    whole = torch.cat([piece(*span) for span in pieces])
    gram = whole @ whole.T
    if (vectors := _leading(gram, rank, energy)) is None:
        return None
    return _balanced(vectors, vectors.T @ whole, gram)


def _leading(gram: torch.Tensor, rank: int | None, energy: float | None) -> torch.Tensor | None:
    """Return the eigenvectors of the largest eigenvalues, the largest first."""
    total = float(gram.trace())
    if not np.isfinite(total):
        return None
    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp(min=0)
    count = int((values > total * len(gram) * 2.0**-52).sum())
    if energy is not None:
        short = torch.cumsum(values, 0) < energy * total
        count = min(count, int(short.sum()) + 1)
    if rank is not None:
        count = min(count, rank)
    return vectors.flip(1)[:, :count]


def _balanced(left: torch.Tensor, right: torch.Tensor, gram: torch.Tensor) -> LowRankFit:
    """Share the singular values evenly: one side has orthonormal columns or rows, the other has the values in it."""
    sizes = left.norm(dim=0) * right.norm(dim=1)
    roots = [side.norm(dim=index) / sizes.sqrt() for index, side in enumerate((left, right))]
    return LowRankFit(
        (left / roots[0]).cpu(), (right / roots[1][:, None]).cpu(), float((sizes**2).sum()), float(gram.trace())
    )
