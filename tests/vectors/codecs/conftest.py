"""Models and vectors that several modules of tests read."""

from __future__ import annotations

import pytest
import tiny
import torch
from packed_forms import FORMS
from safetensors.torch import load_file, save_file

from taskarith.vectors.extract import extract


@pytest.fixture(scope="session")
def equal_deltas(tmp_path_factory):
    """A tiny Qwen2 in shards, and a fine-tune some of whose deltas are equal, across tensors too."""
    root = tmp_path_factory.mktemp("sparse")
    base = tiny.save_model(root / "base", "qwen2", max_shard_size="60KB")
    tuned = tiny.save_model(root / "tuned", "qwen2", nudge_of=base, seed=1, max_shard_size="60KB")
    for folder in (base, tuned):
        for file in folder.glob("*.safetensors"):
            tensors = load_file(file)
            for tensor in tensors.values():
                tensor.copy_((tensor * 512).round() / 512)  # deltas are a few multiples of 1/512: many ties
            save_file(tensors, file, metadata={"format": "pt"})
    return base, tuned


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A tiny Phi in bfloat16 and a fine-tune of it."""
    root = tmp_path_factory.mktemp("packed")
    base = tiny.save_model(root / "base", dtype=torch.bfloat16)
    return base, tiny.save_model(root / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16, scale=1e-3)


@pytest.fixture(scope="session")
def vectors(tmp_path_factory, pair):
    """One vector of each form."""
    folder = tmp_path_factory.mktemp("vectors")
    return {name: extract(*map(str, pair), folder / f"{name}.safetensors", **form).path for name, form in FORMS.items()}
