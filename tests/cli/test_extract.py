"""`taskarith extract` as a user types it."""

from __future__ import annotations

import json

import tiny
from typer.testing import CliRunner

from taskarith.cli.main import app


def test_the_command(tmp_path):
    base = tiny.save_model(tmp_path / "base", "moe")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base)
    arguments = ["extract", str(base), str(tuned), "-o", str(tmp_path / "adapter"), "--rank", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "adapter")
    assert "matrices of rank 3 to 3" in done.stderr
    assert "stored whole in the adapter: model.layers.0.input_layernorm.weight" in done.stderr
    shown = json.loads(CliRunner().invoke(app, [*arguments, "--overwrite", "--json"]).stdout)
    assert set(shown["ranks"].values()) == {3}
    record = json.loads((tmp_path / "adapter/taskarith.json").read_text())
    assert record["base"]["fingerprint"] == shown["base"]["fingerprint"]
    assert record["tensors"]["model.layers.0.self_attn.q_proj.weight"]["rank"] == 3
    assert record["rest"] == []


def test_a_file_without_the_usual_ending_is_told(tmp_path, phi, phi_tuned):
    for name, is_told in (("v", True), ("v.safetensors", False)):
        done = CliRunner().invoke(app, ["extract", str(phi), str(phi_tuned), "-o", str(tmp_path / name)])
        assert done.exit_code == 0
        assert ("is a safetensors file" in done.stderr) == is_told
