"""The best approximation of a matrix by one of lower rank, from its Gram matrix.

The eigenvectors V of ``X^T X`` are the right singular vectors of X, the eigenvalues the squares of its singular values,
and ``X V_k V_k^T`` is the best approximation of rank k (Eckart and Young, "The approximation of one matrix by another
of lower rank", Psychometrika 1, 1936). Squaring loses singular values below 1e-8 of the largest; they hold no energy.
What is kept is at least 1 - 1e-10 of the best (``eigen.LOSS``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from taskarith.vectors.eigen import leading

__all__ = ["LowRankFit", "best_fit"]

_BLOCK = 1 << 20
"""Elements of the matrix that are read at a time."""

_COLUMNS = 256
"""Columns of the Gram matrix that are calculated at a time, from the diagonal downwards."""


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
    rows: Callable[[int, int], torch.Tensor],
    shape: tuple[int, int],
    rank: int | None,
    energy: float | None,
    device: str = "cpu",
) -> LowRankFit | None:
    """Return the best approximation of a given rank, or the one of the least rank that keeps a share of the energy.

    A matrix with more rows than columns is read twice and never whole in memory; any other is held in float64.

    :param rows: Gives rows ``start`` to ``stop`` in float64, on the CPU.
    :param shape: Rows and columns.
    :param rank: At most so many singular values; those that are zero but for rounding are left out. Or None.
    :param energy: Share of the sum of squares that is to be kept, or None.
    :param device: Where to calculate.
    :returns: None if the sum of squares is not finite.
    """
    height, width = shape
    step = max(1, _BLOCK // max(width, 1))
    pieces = [(start, min(start + step, height)) for start in range(0, height, step)]

    def piece(start: int, stop: int) -> torch.Tensor:
        return rows(start, stop).to(device)

    if height >= width:
        gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        for span in pieces:
            _add_squares(gram, piece(*span))
        if (vectors := _leading(gram, rank, energy)) is None:
            return None
        return _balanced(torch.cat([piece(*span) @ vectors for span in pieces]), vectors.T, gram)
    whole = torch.cat([piece(*span) for span in pieces])
    gram = torch.zeros(height, height, dtype=torch.float64, device=device)
    _add_squares(gram, whole.T)
    if (vectors := _leading(gram, rank, energy)) is None:
        return None
    return _balanced(vectors, vectors.T @ whole, gram)


def _add_squares(gram: torch.Tensor, part: torch.Tensor) -> None:
    """Add ``part^T part`` to the lower half of a matrix; the blocks on the diagonal are added whole."""
    for start in range(0, len(gram), _COLUMNS):
        span = slice(start, start + _COLUMNS)
        gram[start:, span].addmm_(part[:, start:].T, part[:, span])


def _leading(gram: torch.Tensor, rank: int | None, energy: float | None) -> torch.Tensor | None:
    """Return the eigenvectors of the largest eigenvalues, the largest first.

    :param gram: Its lower half; the upper one is filled in.
    """
    lower = gram.tril()
    torch.add(lower, lower.tril(-1).T, out=gram)
    total = float(gram.trace())
    if not math.isfinite(total):
        return None
    if energy is not None:
        values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
        rank = int((torch.cumsum(values, 0) < energy * total).sum()) + 1
    values, vectors = leading(gram, rank or 1)
    return vectors[:, : min(int((values > total * len(gram) * 2.0**-52).sum()), rank or 1)]


def _balanced(left: torch.Tensor, right: torch.Tensor, gram: torch.Tensor) -> LowRankFit:
    """Share the singular values evenly: one side has orthonormal columns or rows, the other has the values in it."""
    sizes = left.norm(dim=0) * right.norm(dim=1)
    roots = [side.norm(dim=index) / sizes.sqrt() for index, side in enumerate((left, right))]
    return LowRankFit(
        (left / roots[0]).cpu(), (right / roots[1][:, None]).cpu(), float((sizes**2).sum()), float(gram.trace())
    )
