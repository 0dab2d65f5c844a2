"""`taskarith undo` as a user types it."""

from __future__ import annotations

import json

from damage import files
from typer.testing import CliRunner

from taskarith.cli.main import app


def test_commands(tmp_path, phi, phi_tuned):
    run = CliRunner()
    edited, back = str(tmp_path / "edited"), str(tmp_path / "back")
    done = run.invoke(app, ["apply", str(phi), "--negate", str(phi_tuned), "-o", edited, "--keep-undo"])
    assert done.exit_code == 0
    assert "undo patch:" in done.stderr
    done = run.invoke(app, ["undo", edited, "-o", back, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["tensors"] > 0
    assert files(tmp_path / "back") == files(phi)
    again = run.invoke(app, ["undo", edited, "-o", back])
    assert again.exit_code == 1
    assert "already exists" in again.stderr
