"""Extraction: what a vector file holds, what it counts, and what it refuses."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file

from taskarith.errors import CheckpointError, OutputError, UsageError
from taskarith.vectors.extract import extract


def test_base_is_found_in_the_record_of_the_finetune(tmp_path, phi):
    tuned = tiny.forget_base(tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=3))
    with pytest.raises(UsageError, match="does not record its base"):
        extract(None, str(tuned), tmp_path / "v.safetensors")
    (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": str(phi), "revision": None}}))
    assert extract(None, str(tuned), tmp_path / "v.safetensors").base.name == str(phi)
    (tuned / "taskarith.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="does not hold a JSON object"):
        extract(None, str(tuned), tmp_path / "v2.safetensors")


def test_an_existing_vector_is_kept_unless_told_otherwise(tmp_path, phi, phi_tuned):
    path = tmp_path / "v.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        extract(str(phi), str(phi_tuned), path)
    assert path.read_text() == "precious"
    with pytest.raises(OutputError, match="says that taskarith wrote it"):
        extract(str(phi), str(phi_tuned), path, overwrite=True)
    path.rename(tmp_path / "thesis")
    extract(str(phi), str(phi_tuned), path, dtype="bfloat16")
    extract(str(phi), str(phi_tuned), path, overwrite=True)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
