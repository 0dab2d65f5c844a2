"""Verifying what was written: fingerprints, and elements calculated again by other code."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from adapters import save_adapter
from damage import flip
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from taskarith.checkpoints.header import read_header
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, VectorError
from taskarith.inspection import verify_methods
from taskarith.inspection.verify import verify
from taskarith.inspection.verify_sample import SAMPLE
from taskarith.merging.methods import parse_method
from taskarith.vectors.extract import extract


@pytest.fixture
def pair(tmp_path):
    base = tiny.save_model(tmp_path / "base", dtype=torch.bfloat16)
    return base, tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_a_sound_edit_and_a_sound_vector(tmp_path, kind, dtype):
    base = tiny.save_model(tmp_path / "base", kind, dtype=torch.bfloat16, max_shard_size="30KB")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    operands = {"add": [f"{tuned}:0.3"], "negate": [f"{tmp_path / 'v.safetensors'}:0.7", f"{tuned}:0.11"]}
    apply(str(base), **operands, alpha=0.9, dtype=dtype, output_dir=tmp_path / "out")
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert found.unsampled == ""
    assert found.sampled == sum(min(SAMPLE, t.elements) for t in tensors(tmp_path / "out"))
    vector = verify(tmp_path / "v.safetensors")
    assert vector.is_sound
    assert (vector.kind, vector.unsampled) == ("vector", "")
    assert vector.sampled > 0


def tensors(folder):
    return [tensor for path in folder.glob("model*.safetensors") for tensor in read_header(path).tensors]


def test_an_edit_with_an_adapter_is_calculated_again(tmp_path, phi):
    adapter = save_adapter(phi, tmp_path / "adapter")
    apply(str(phi), negate=[f"{adapter}:0.7"], output_dir=tmp_path / "out")
    assert verify(tmp_path / "out", seed=3).is_sound


def test_one_changed_bit_is_found(tmp_path, pair):
    base, tuned = pair
    apply(str(base), add=[f"{tuned}:0.5"], output_dir=tmp_path / "out")
    flip(tmp_path / "out/model.safetensors", "model.layers.0.mlp.fc1.weight", element=77)
    found = verify(tmp_path / "out")
    assert found.damaged == ("model.layers.0.mlp.fc1.weight",)
    assert found.wrong == ()
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "model.layers.0.mlp.fc1.weight" in done.stdout


def test_an_edit_that_was_calculated_wrongly_is_found(tmp_path, pair):
    base, tuned = pair
    apply(str(base), add=[f"{tuned}:0.5"], output_dir=tmp_path / "out")
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    record["operands"][0]["coefficient"] = 0.51
    (tmp_path / "out/taskarith.json").write_text(json.dumps(record))
    found = verify(tmp_path / "out")
    assert found.damaged == ()
    assert len(found.wrong) > 10


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


def test_what_cannot_be_verified_is_said(tmp_path, phi):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent", phi, phi / "model.safetensors"):
        done = CliRunner().invoke(app, ["verify", str(path)])
        assert done.exit_code == 1
        assert "hint:" in done.stderr
    with pytest.raises(CheckpointError, match=r"taskarith\.json"):
        verify(tmp_path / "empty")


@pytest.mark.parametrize("record", ['{"kind": "edit"}', '{"kind": "edit", "tensors": {"a": 3}}'])
def test_a_record_that_somebody_has_changed(tmp_path, pair, record):
    base, tuned = pair
    apply(str(base), add=[str(tuned)], output_dir=tmp_path / "out")
    (tmp_path / "out" / "taskarith.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"record of .* is broken"):
        verify(tmp_path / "out")


def test_a_base_that_has_other_tensors_now(tmp_path, phi):
    base = tiny.save_model(tmp_path / "base", "phi")
    adapter = save_adapter(base, tmp_path / "adapter")
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    tensors = load_file(base / "model.safetensors") | {"more": torch.zeros(3)}
    save_file(tensors, base / "model.safetensors")
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert "other tensors" in found.unsampled


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


def test_no_more_is_merged_again_than_a_sample(tmp_path, phi, phi_tuned, monkeypatch):
    tuned = f"{phi_tuned}@@{phi}"
    apply(str(phi), add=[tuned], method=parse_method("ties", density=0.5), output_dir=tmp_path / "out")
    whole = verify(tmp_path / "out").sampled
    monkeypatch.setattr(verify_methods, "_ELEMENTS", whole // 3)
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert 0 < found.sampled <= whole // 3
