"""`taskarith apply` as a user types it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import oracle
import pytest
from commands import invoke
from typer.testing import CliRunner

from taskarith.cli.main import app


def test_scale_zero_copies_and_the_command_says_it_all(tmp_path, phi, phi_tuned):
    out = tmp_path / "out"
    arguments = ["apply", phi, "--add", phi_tuned, "--scale", "*=0", "--scale", "layers.1.mlp=1", "-o", out]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    changed = oracle.differing(oracle.load(out), oracle.load(phi))
    assert changed
    assert all(".layers.1.mlp." in name for name in changed)
    assert oracle.differing(oracle.load(out), oracle.load(phi_tuned)) == sorted(oracle.load(phi).keys() - set(changed))
    actions = {
        name: entry["action"] for name, entry in json.loads((out / "taskarith.json").read_text())["tensors"].items()
    }
    assert {name for name, action in actions.items() if action == "edited"} == set(changed)


@pytest.mark.parametrize("jobs", [0, -1, 1000, 10**20])
def test_a_number_of_processes_has_bounds(jobs):
    result = invoke("apply", "base", "--negate", "v", "--jobs", jobs)
    assert result.exit_code == 2
    assert f"jobs is {jobs}" in result.stderr


def test_a_dry_run_says_what_it_would_do_and_what_would_fail(tmp_path, phi, vectors, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    words = ["--add", vectors / "a.safetensors", "-o", tmp_path / "out", "--dry-run"]
    done = invoke("apply", phi, *words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"
    size = (phi / "model.safetensors").stat().st_size / 1e6
    assert f"tensors 33 edited; read {2 * size:,.1f} MB, would write {size:,.1f} MB" in done.stderr
    assert "MB of memory" in done.stderr
    assert f"would fail: {tmp_path} has 0.0 GB of space" in done.stderr
    shown = json.loads(invoke("apply", phi, *words, "--json").stdout)
    assert (shown["dry_run"], shown["fingerprint"], shown["forecast"]["write_rate"] > 0) == (True, "", True)
    assert list(tmp_path.iterdir()) == []
