"""`taskarith apply` as a user types it."""

from __future__ import annotations

import json

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
