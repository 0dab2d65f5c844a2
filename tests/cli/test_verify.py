"""`taskarith verify` as a user types it: words and exit codes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import CheckpointError
from taskarith.inspection.verify import verify


def test_what_cannot_be_verified_is_said(tmp_path, phi):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent", phi, phi / "model.safetensors"):
        done = CliRunner().invoke(app, ["verify", str(path)])
        assert done.exit_code == 1
        assert "hint:" in done.stderr
    with pytest.raises(CheckpointError, match=r"taskarith\.json"):
        verify(tmp_path / "empty")
