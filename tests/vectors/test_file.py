"""Task vector files: the header, and what damage does."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import tiny
import torch
from damage import flip
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.header import read_header
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import VectorError
from taskarith.merging.methods import parse_method
from taskarith.vectors.extract import extract


@pytest.fixture
def pair(tmp_path):
    base = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16)
    return base, tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"dtype": "bfloat16"}])
def test_a_flipped_bit_of_a_vector_ends_every_edit(tmp_path, pair, options):
    base, tuned = pair
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", **options).path
    name = "model.layers.0.mlp.fc1.weight"
    entry = next(one for one in read_header(vector).tensors if one.name == name)
    flip(vector, name, element=entry.elements // 2)
    before = sorted(tmp_path.iterdir())
    for method in ({}, {"method": parse_method("ties", density=0.5)}):
        with pytest.raises(VectorError, match=rf"{name} .* is (not what was written|broken)"):
            apply(str(base), add=[str(vector)], output_dir=tmp_path / "out", **method)
    for command in (
        ["combine", str(vector), "-o", str(tmp_path / "sum.safetensors")],
        ["relate", str(vector), str(vector)],
    ):
        result = CliRunner().invoke(app, command)
        assert (result.exit_code, f"{name} in {vector} is " in result.stderr) == (1, True), result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_the_header_binds_the_vector_to_its_base(tmp_path, phi, phi_tuned):
    result = extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "taskarith-vector"
    assert (tmp_path / metadata["base"]).resolve() == phi
    assert metadata["base_fingerprint"] == fingerprint_model(phi) == result.base.fingerprint
    assert json.loads(metadata["base_tensors"]).keys() == load_file(phi / "model.safetensors").keys()
    assert json.loads(metadata["finetuned"])["fingerprint"] == fingerprint_model(phi_tuned)
    assert json.loads(metadata["versions"])["torch"] == importlib.metadata.version("torch")
    assert metadata["inexact"] == "0"
