"""Options of extract name one form of a vector, or none."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from taskarith.cli.main import app


@pytest.mark.parametrize("form", [["--exact"], ["--bits", "4"], ["--top-k", "0.5"], ["--rows", "0.5"]])
def test_two_forms_at_once(tmp_path, phi, phi_tuned, form):
    call = ["extract", str(phi), str(phi_tuned), "-o", str(tmp_path / "v"), "--rank", "2", *form]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "cannot be combined with" in done.stderr
    assert not (tmp_path / "v").exists()
