"""Architectures guessed from the names in the files, where transformers cannot be asked."""

from __future__ import annotations

import json

import oracle
import torch
from architectures import adapt

from taskarith import apply


def test_a_model_that_transformers_cannot_build_is_understood_by_its_names_and_that_is_said(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "adapter")
    apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "right")
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "unheard", "architectures": ["Unheard"]}
    (llama / "config.json").write_text(json.dumps(config))
    result = apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "out")
    assert any("transformers cannot build" in remark for remark in result.remarks)
    right, found = oracle.load(tmp_path / "right"), oracle.load(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
