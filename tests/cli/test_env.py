"""What `taskarith env` prints."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from taskarith.cli.main import app


def test_it_can_be_pasted_and_tells_no_secret(monkeypatch, tmp_path):
    monkeypatch.delenv("TASKARITH_CACHE", raising=False)
    monkeypatch.setenv("TASKARITH_SWEEP_STORAGE", "mysql://user:secret@host/db")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = CliRunner().invoke(app, ["env"]).stdout
    found = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)
    assert text.splitlines() == [f"- {name}: {value}" for name, value in found.items()]
    assert found["cores"].startswith("1 usable of ")
    assert found["device"].startswith("auto is ")
    assert found["variables"] == "OMP_NUM_THREADS=1, TASKARITH_SWEEP_STORAGE"
    assert "secret" not in text
    assert str(tmp_path) not in text
