"""Models and outputs that several modules of tests verify."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch

from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


@pytest.fixture
def pair(tmp_path):
    base = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16)
    return base, tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A base, a fine-tune, a vector of it, and an edit with a patch back, of two shards."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny.save_model(folder / "base", dtype=torch.bfloat16, max_shard_size="30KB")
    (base / "LICENSE").write_text("free", encoding="utf-8")
    (base / "modeling_tiny.py").write_text("import os", encoding="utf-8")
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)
    extract(str(base), str(tuned), folder / "v.safetensors")
    apply(str(base), add=[str(folder / "v.safetensors")], output_dir=folder / "out", keep_undo=True)
    return folder


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made / "out", tmp_path / "out")
