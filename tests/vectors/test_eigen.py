"""Leading eigenvectors, and the proof that none is missing."""

from __future__ import annotations

import pytest
import torch

from taskarith.vectors import eigen


def test_a_subspace_that_misses_the_largest_eigenvector_is_not_believed(monkeypatch):
    values = torch.cat([torch.tensor([100.0]), torch.linspace(50, 1, 319)]).double()
    gram = values.diag()
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.eye(*shape).roll(1, 0))  # nothing of the first
    monkeypatch.setattr(eigen, "_ROUNDS", 200)
    monkeypatch.setattr(eigen, "_PATIENCE", 200)
    proofs = []
    is_all = eigen._Subspace.is_all
    monkeypatch.setattr(eigen._Subspace, "is_all", lambda *one: proofs.append(is_all(*one)) or proofs[-1])
    vectors = eigen.leading(gram, 2)
    assert (vectors[0, 0].abs(), vectors[1, 1].abs()) == (pytest.approx(1), pytest.approx(1))
    assert proofs
    assert not any(proofs)


def test_the_filter_is_a_chebyshev_polynomial():
    values, cut = torch.linspace(0, 10, 41).double(), 4.0
    found = eigen._filter(values.diag(), torch.eye(41).double(), cut, 10.0).diag()
    inner = (values - cut / 2) / (cut / 2)
    degree = next(
        d
        for d in range(1, eigen._DEGREE + 1)
        if torch.cosh(d * torch.acosh(inner[-1])) * 2 >= eigen._GROWTH or d == eigen._DEGREE
    )
    wanted = torch.special.chebyshev_polynomial_t(inner, degree)
    assert torch.allclose(found / found[-1], wanted / wanted[-1], rtol=1e-9, atol=1e-12)
