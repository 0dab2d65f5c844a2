"""Samples of elements, and fingerprints of whole tensors."""

from __future__ import annotations

from damage import flip
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.inspection.verify import verify


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
