"""Inputs that have changed are named, and nothing is blamed on the output."""

from __future__ import annotations

import json
import shutil

import tiny
import torch
from adapters import save_adapter
from damage import flip
from safetensors.torch import load_file, save_file
from verifying import tensors

from taskarith.edit.apply import apply
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


def test_inputs_that_are_gone_or_changed_are_said(tmp_path, pair):
    base, tuned = pair
    apply(str(base), add=[f"{tuned}:0.5"], output_dir=tmp_path / "out")
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    for tensor in (one.name for one in tensors(base)):
        flip(base / "model.safetensors", tensor)
        flip(base / "model.safetensors", tensor, element=1)
        for element in range(2, 40):
            if "weight" in tensor and "norm" not in tensor:
                flip(base / "model.safetensors", tensor, element)
    for path in (tmp_path / "out", tmp_path / "v.safetensors"):
        found = verify(path, seed=1)
        assert found.damaged == ()
        assert found.wrong == ()
        assert "base has changed" in found.unsampled
    shutil.rmtree(base)
    for path in (tmp_path / "out", tmp_path / "v.safetensors"):
        found = verify(path)
        assert found.is_sound
        assert "cannot be opened" in found.unsampled


def test_a_base_that_has_other_tensors_now(tmp_path, phi):
    base = tiny.save_model(tmp_path / "base", "phi")
    adapter = save_adapter(base, tmp_path / "adapter")
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    tensors = load_file(base / "model.safetensors") | {"more": torch.zeros(3)}
    save_file(tensors, base / "model.safetensors")
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert "its tensors differ" in found.unsampled


def test_a_vector_that_was_made_again_is_not_blamed_on_the_output(made, tmp_path):
    vector = shutil.copy(made / "v.safetensors", tmp_path / "v.safetensors")
    operands = [str(vector), f"{made / 'tuned'}:0.5"]
    apply(str(made / "base"), add=operands, output_dir=tmp_path / "out")
    extract(str(made / "base"), str(made / "tuned"), vector, dtype="float16", overwrite=True)
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert f"{vector} has changed since" in found.unsampled
    assert "tuned has changed" not in found.unsampled


def test_a_changed_tensor_of_the_base_does_not_hide_other_wrong_ones(made, tmp_path):
    base = shutil.copytree(made / "base", tmp_path / "base")
    apply(str(base), add=[f"{made / 'tuned'}@@{made / 'base'}"], output_dir=tmp_path / "out")
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    record["alpha"] = 1.5
    (tmp_path / "out/taskarith.json").write_text(json.dumps(record))
    name = "model.layers.0.mlp.fc1.weight"
    before = verify(tmp_path / "out").wrong
    assert name in before
    for shard in base.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            save_file(tensors | {name: tensors[name] + 1}, shard, metadata={"format": "pt"})
    found = verify(tmp_path / "out")
    assert set(found.wrong) == set(before) - {name}
    assert f"base has changed since, in {name}" in found.unsampled
