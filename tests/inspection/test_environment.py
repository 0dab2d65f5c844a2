"""What this machine has, as `taskarith env` tells it."""

from __future__ import annotations

import torch

from taskarith.inspection.environment import environment


def test_versions_memory_and_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    found = environment()
    assert torch.__version__.startswith(found["torch"])  # which may name the build, too
    assert found["cache"].startswith(str(tmp_path / "cache"))
    free, _, whole = found["memory"].removesuffix(" GB").partition(" GB free of ")
    assert 0 < float(free.replace(",", "")) <= float(whole.replace(",", ""))
    assert (found["GPUs"] == "none") == (not torch.cuda.is_available() and not torch.backends.mps.is_available())


def test_variables_that_change_something_are_told_and_no_secret(monkeypatch):
    told = {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0", "ACCELERATE_USE_CPU": "1", "WORLD_SIZE": "1"}
    for name, value in {**told, "TASKARITH_CONFIG": "secret", "HF_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    words = str(environment())
    assert [name for name, value in told.items() if f"{name}={value}" not in words] == []
    assert "TASKARITH_CONFIG" in words
    assert "secret" not in words
