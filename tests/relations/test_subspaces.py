"""Subspaces that vectors share."""

from __future__ import annotations

import numpy as np
import pytest
from finetuning import DEVICES
from safetensors.torch import load_file

from taskarith.relations.relate import relate


@pytest.mark.parametrize("device", DEVICES)
def test_subspaces(room, phi, device):
    a, b = (load_file(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")], rank=3, device=device).subspaces
    one = next(each for each in found if each.tensor.endswith("layers.0.mlp.fc1.weight"))
    sides = [np.linalg.svd(side[one.tensor].double().numpy(), full_matrices=False) for side in (a, b)]
    (u, s, v), (x, t, y) = [(left[:, :3], sizes[:3], right[:3].T) for left, sizes, right in sides]
    assert one.outputs == pytest.approx(np.linalg.svd(u.T @ x, compute_uv=False), abs=1e-9)
    assert one.inputs == pytest.approx(np.linalg.svd(v.T @ y, compute_uv=False), abs=1e-9)
    first, second = u * s @ v.T, x * t @ y.T
    shared = [np.linalg.norm(x @ x.T @ first @ y @ y.T) ** 2 / np.linalg.norm(first) ** 2]
    shared.append(np.linalg.norm(u @ u.T @ second @ v @ v.T) ** 2 / np.linalg.norm(second) ** 2)
    assert one.shared == pytest.approx(np.mean(shared), rel=1e-8)
    itself = relate([str(room / "adapter"), f"{room / 'adapter'}:-2"], model=str(phi), rank=2).subspaces
    assert itself
    assert all(each.shared == pytest.approx(1) and min(each.outputs) > 1 - 1e-9 for each in itself)
