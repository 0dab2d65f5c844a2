"""The best approximation of a matrix by one of lower rank, from its Gram matrix.

The eigenvectors of ``A^T A`` are the right singular vectors of A, and A projected on the leading ones is the best
approximation (Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936). The
products of a large matrix are in float32, which loses what is small beside the largest singular value; so the vectors
found, and some more, are only where a step of subspace iteration starts, in float64: Q spans what A makes of them, and
``Q Q^T A``, cut to the rank, is the approximation (Halko, Martinsson and Tropp, "Finding structure with randomness",
SIAM Review 53, 2011). It keeps at least 1 - 1e-6 of what the best one keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from taskarith.vectors.eigen import leading

__all__ = ["LowRankFit", "best_fit"]

_BLOCK = 1 << 21
"""Elements of the matrix that are read at a time."""

_COLUMNS = 256
"""Columns of the Gram matrix that are calculated at a time, from the diagonal downwards."""

_SMALL = 256
"""Up to this size the Gram matrix is calculated in float64, as it is for a share of the energy."""


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

    A matrix with more rows than columns is read three times and never whole in memory; any other is held in float64.

    :param rows: Gives rows ``start`` to ``stop`` in float64, on the CPU.
    :param shape: Rows and columns.
    :param rank: At most so many singular values; those below 1.5e-8 of the root of
        the sum of squares, times that of the shorter side, are rounding and left out. Or None.
    :param energy: Share of the sum of squares that is to be kept, or None.
    :param device: Where to calculate.
    :returns: None if the sum of squares is not finite.
    """
    width = min(shape)
    parts = _Parts(rows, shape, device)
    is_light = energy is None and width > _SMALL
    gram, total = _gram(parts, width, torch.float32 if is_light else torch.float64, device)
    if not math.isfinite(total):
        return None
    if not total:
        return LowRankFit(gram.new_zeros(shape[0], 0), gram.new_zeros(0, shape[1]), 0.0, 0.0)
    if energy is not None:
        sums = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).cumsum(0)
        rank = int((sums < energy * sums[-1]).sum()) + 1
    start = leading(gram, rank or 1).T.contiguous()  # as rows: the products below are several times slower as columns
    basis = torch.linalg.qr(torch.cat([start @ part.T for part in parts], dim=1).T).Q.T.contiguous()
    image, position = torch.zeros_like(start), 0
    for part in parts:
        image.addmm_(basis[:, position : position + len(part)], part)
        position += len(part)
    turn, values, right = torch.linalg.svd(image, full_matrices=False)
    count = min(int((values.square() > total * width * 2.0**-52).sum()), rank or 1)
    roots = values[:count].sqrt()[:, None]
    sides = [(roots * side[:count]).cpu() for side in (turn.T @ basis, right)]
    left, right = sides if shape[0] >= shape[1] else sides[::-1]
    return LowRankFit(left.T, right, float(values[:count].square().sum()), total)


class _Parts:
    """The rows of a matrix, or its columns if there are more of those, some at a time, as often as wanted."""

    def __init__(self, rows: Callable[[int, int], torch.Tensor], shape: tuple[int, int], device: str) -> None:
        self._rows, self._device = rows, device
        self._height, width = shape
        self._step = max(1, _BLOCK // max(width, 1))
        self._whole = torch.cat(list(self._read())) if self._height < width else None

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self._whole is None:
            return self._read()
        return (part.T for part in self._whole.split(max(1, _BLOCK // max(self._height, 1)), dim=1))

    def _read(self) -> Iterator[torch.Tensor]:
        for start in range(0, self._height, self._step):
            yield self._rows(start, min(start + self._step, self._height)).to(self._device)


def _gram(parts: Iterable[torch.Tensor], width: int, products: torch.dtype, device: str) -> tuple[torch.Tensor, float]:
    """Return the sum of ``part^T part`` in float64, and that of the squares of all elements.

    :param products: Dtype of the products; each part is scaled by a power of two, so that float32 holds their squares.
    """
    gram, total = torch.zeros(width, width, dtype=torch.float64, device=device), 0.0
    for part in parts:
        total += float(torch.linalg.vector_norm(part).square())
        power = max(-500, min(500, math.frexp(max(map(abs, map(float, part.aminmax()))))[1]))
        narrow = (part * 0.5**power).to(products)
        for start in range(0, width, _COLUMNS):
            span = slice(start, start + _COLUMNS)
            gram[start:, span].add_(narrow[:, start:].T @ narrow[:, span], alpha=4.0**power)
    for start in range(0, width, _COLUMNS):
        stop = start + _COLUMNS
        gram[start:stop, stop:] = gram[stop:, start:stop].T
    return gram, total
