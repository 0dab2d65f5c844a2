"""The control: a random vector, and what an edit loses."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from taskarith.demo.control import random_vector, share_lost
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.vectors.extract import extract


def score(loss):
    return {"loss": Estimate(loss, None, None, 16)}


def test_the_random_vector_has_the_norms_and_nothing_else(tmp_path, phi, phi_tuned):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    random_vector(tmp_path / "v.safetensors", tmp_path / "r.safetensors", seed=1)
    real, noise = load_file(tmp_path / "v.safetensors"), load_file(tmp_path / "r.safetensors")
    assert real.keys() == noise.keys()
    for name, delta in real.items():
        assert noise[name].norm().item() == pytest.approx(delta.norm().item(), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(
        *(torch.cat([t.flatten() for t in v.values()]) for v in (real, noise)), dim=0
    )
    assert abs(cosine) < 0.03
    with safe_open(tmp_path / "v.safetensors", "pt") as a, safe_open(tmp_path / "r.safetensors", "pt") as b:
        assert a.metadata()["base_fingerprint"] == b.metadata()["base_fingerprint"]


def test_share_lost():
    base, tuned = {"a": score(4.0), "b": score(3.0)}, {"a": score(1.0), "b": score(3.0)}
    assert share_lost(base, tuned, {"a": score(2.5), "b": score(9.0)}) == {"a": 0.5}
