"""`taskarith combine` as a user types it."""

from __future__ import annotations

import json

import oracle
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.edit.combine import combine


def test_the_command(vectors, tmp_path):
    first, second = vectors / "a.safetensors", vectors / "b.safetensors"
    arguments = ["combine", str(first), "-", f"{second}:0.4", "-o", str(tmp_path / "c.safetensors"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "dense"
    combine(f"{first} - {second}:0.4", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert oracle.differing(load_file(tmp_path / "c.safetensors"), again) == []


def test_what_cannot_be_combined_is_two_lines_and_an_exit_code(vectors, tmp_path):
    out = str(tmp_path / "c.safetensors")
    for words, code, message in (
        (["a.safetensors", "-"], 2, "cannot read"),
        ([str(vectors / "a.safetensors"), "--rank", "2"], 2, "does not fit"),
        (["gone.safetensors"], 1, "there is no vector gone.safetensors"),
    ):
        done = CliRunner().invoke(app, ["combine", *words, "-o", out])
        assert (done.exit_code, done.stdout) == (code, "")
        assert message in done.stderr
        assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "hint:  "]
    assert list(tmp_path.iterdir()) == []
