"""The commands that the demo shows do what it did."""

from __future__ import annotations

import shlex

from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app


def test_the_commands_by_hand_give_the_same_models(shown, tmp_path, monkeypatch):
    result, _ = shown
    monkeypatch.chdir(tmp_path)
    for line in result.commands:
        program, *arguments = shlex.split(line)
        assert program == "taskarith"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (line, done.output)
    assert fingerprint_model(tmp_path / "tuned") == fingerprint_model(result.output_dir / "tuned")
    if result.recommended is not None:
        assert fingerprint_model(tmp_path / "edited") == fingerprint_model(result.output_dir / "edited")
