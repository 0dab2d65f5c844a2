"""An edit repeated from its record: the same bytes, or the input that changed by name."""

from __future__ import annotations

import json
import shutil

import pytest
from recipes import run
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.provenance import read_provenance
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("options", [[], ["--dtype", "float16", "--max-shard-size", "50KB"]])
def test_an_edit_is_repeated_from_its_record(tmp_path, monkeypatch, phi, phi_tuned, other, options):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    monkeypatch.chdir(tmp_path)
    scale = ["--scale", "layers=0..0.1..1", "--scale", "mlp=0.3"]
    first = run(
        phi, "--negate", "v.safetensors:0.7", "--add", "other:0.1", "--alpha", 0.9, *scale, "-o", "out", *options
    )
    assert first.exit_code == 0, first.output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # paths in the record are relative to its folder
    second = run("--config", tmp_path / "out/taskarith.json", "-o", "again")
    assert second.exit_code == 0, second.output
    for path in (tmp_path / "out").glob("model*"):
        assert path.read_bytes() == (tmp_path / "elsewhere/again" / path.name).read_bytes()
    records = [read_provenance(tmp_path / name) for name in ("out", "elsewhere/again")]
    for record in records:
        del record["command"], record["time"], record["digest"]
    assert records[0] == records[1]
    third = run("--config", tmp_path / "elsewhere/again/taskarith.json", "-o", "other alpha", "--alpha", "-0.2")
    assert third.exit_code == 0, third.output
    assert json.loads((tmp_path / "elsewhere/other alpha/taskarith.json").read_text())["alpha"] == -0.2


def change(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"][3] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_inputs_that_changed_are_refused_by_name(tmp_path, phi, phi_tuned, which):
    for name, source in (("base", phi), ("tuned", phi_tuned)):
        shutil.copytree(source, tmp_path / name)
    assert run(tmp_path / "base", "--add", tmp_path / "tuned", "-o", tmp_path / "out").exit_code == 0
    change(tmp_path / which)
    again = ["--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again"]
    done = run(*again)
    assert done.exit_code == 1
    assert f"{tmp_path / which} changed since the edit that is to be repeated" in done.output
    assert not (tmp_path / "again").exists()
    # what a flag names, or no longer reads, is not compared
    flag = {"base": [phi], "tuned": ["--add", tmp_path / "tuned"]}[which]
    done = run(*again, *flag)
    assert done.exit_code == 0, done.output
    if which == "tuned":
        assert "1 vectors of the recipe give way" in done.output
        assert run(*again, "--overwrite", "--alpha", 0).exit_code == 0
        assert run(*again, "--overwrite", "--scale", "mlp=0").exit_code == 0


def test_an_operand_on_the_hub_is_recorded_with_its_commit(tmp_path, monkeypatch, phi, phi_tuned):
    commit = "c" * 40
    repository = tmp_path / "hub/models--me--tuned"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(phi_tuned, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = run(phi, "--add", "me/tuned:0.5", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/taskarith.json").read_text())["operands"][0]["name"] == f"me/tuned@{commit}"
    done = run("--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert fingerprint_model(tmp_path / "again") == fingerprint_model(tmp_path / "out")
