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
