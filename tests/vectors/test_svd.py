"""The best approximation by a matrix of lower rank, against the whole decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskarith.vectors.svd import best_fit


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50), (700, 3)])
@pytest.mark.parametrize("spectrum", ["noise", "decay", "exact"])
def test_the_energy_is_the_best_there_is(monkeypatch, shape, spectrum):
    monkeypatch.setattr("taskarith.vectors.svd._BLOCK", 256)
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=shape) * 1e-3
    if spectrum != "noise":
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values = np.exp(-np.arange(len(values))) if spectrum == "decay" else np.arange(len(values)) < 2
        matrix = (left * values) @ right
    singular = np.linalg.svd(matrix, compute_uv=False)
    for rank in (1, 2, 7):
        fit = best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, rank, None)
        assert fit.rank <= rank
        best = np.sum(singular[:rank] ** 2)
        assert fit.total == pytest.approx(np.sum(singular**2), rel=1e-12)
        assert fit.kept == pytest.approx(best, rel=1e-12)
        lost = np.linalg.norm(matrix - (fit.left @ fit.right).numpy()) ** 2
        assert lost == pytest.approx(np.sum(singular[rank:] ** 2), rel=1e-9, abs=fit.total * 1e-14)
        assert fit.left.norm(dim=0).numpy() == pytest.approx(fit.right.norm(dim=1).numpy())
    for share in (0.3, 0.95, 0.999):
        fit = best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, None, share)
        kept = np.cumsum(singular**2) / np.sum(singular**2)
        assert fit.rank == int(np.sum(kept < share)) + 1
    if spectrum == "exact":
        assert best_fit(lambda start, stop: torch.from_numpy(matrix[start:stop]), shape, None, 1.0).rank == 2


@pytest.mark.parametrize("spectrum", ["flat", "decay", "steep", "equal", "low rank"])
@pytest.mark.parametrize("rank", [1, 16])
def test_many_columns_lose_nothing_either(spectrum, rank):
    size = 320
    numbers = torch.arange(1, size + 1, dtype=torch.float64)
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-12
    if spectrum != "flat":
        left, _, right = torch.linalg.svd(matrix)
        values = {
            "decay": 1 / numbers,
            "steep": torch.exp(-numbers),
            "equal": 1 + (numbers < 9),
            "low rank": numbers < 9,
        }
        matrix = left * values[spectrum] @ right
    best = torch.linalg.svdvals(matrix)[:rank].square().sum()
    sides = (lambda start, stop: matrix[start:stop], lambda start, stop: matrix.T[start:stop])
    fits = [best_fit(rows, (size, size), rank, None) for rows in sides]
    for fit in fits:
        assert fit.rank == (min(rank, 8) if spectrum == "low rank" else rank)
        assert fit.kept / best == pytest.approx(1, abs={"flat": 1e-8, "decay": 1e-10}.get(spectrum, 1e-12))
    lost = (matrix - fits[0].left @ fits[0].right).square().sum()
    assert lost == pytest.approx(fits[0].total - fits[0].kept, abs=fits[0].total * 1e-10)


@pytest.mark.parametrize("shape", [(600, 300), (300, 600), (90, 200)])
@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1e38])
def test_what_is_small_beside_the_largest_singular_value_is_not_lost_to_float32(shape, scale):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 16, dtype=torch.float64, generator=generator) for size in shape)
    values = torch.logspace(0, -6, 16, dtype=torch.float64)
    matrix = scale * (torch.linalg.qr(left).Q * values) @ torch.linalg.qr(right).Q.T
    for rank in (16, 20):
        fit = best_fit(lambda start, stop: matrix[start:stop], shape, rank, None)
        assert fit.rank == 16
        assert (matrix - fit.left @ fit.right).norm() < 1e-13 * matrix.norm()
        sizes = fit.left.norm(dim=0) * fit.right.norm(dim=1)
        assert (sizes / scale).tolist() == pytest.approx(values.tolist(), rel=1e-6)
