"""`taskarith demo` as a user types it."""

from __future__ import annotations

from dataclasses import replace

from tiny_demo import TINY
from typer.testing import CliRunner

from taskarith.cli.main import app


def run(monkeypatch, phi, folder, scale):
    monkeypatch.setattr("taskarith.demo.scale.QUICK", scale)
    return CliRunner().invoke(app, ["demo", "--model", str(phi), "-o", str(folder), "--quick"])


def test_the_command_shows_both_tables_and_says_what_it_found(tmp_path, phi, monkeypatch):
    done = run(monkeypatch, phi, tmp_path / "d", replace(TINY, alphas=(0.0, 1.0)))
    assert done.exit_code == 0, done.output
    for words in (
        "loss, top-1 accuracy, ROUGE-L on:",
        "tuned on all three",
        "Control",
        "the random one",
        "report.html",
    ):
        assert words in done.stdout
    assert "No alpha meets the rule" in done.stdout
    assert "by loss" in done.stdout
    assert done.stdout.count("  taskarith ") == 5
    assert "8 of 8: control: measure the tuned model minus the random vector" in done.stderr


def test_a_model_that_learns_nothing_has_no_control(tmp_path, phi, monkeypatch):
    done = run(monkeypatch, phi, tmp_path / "d", replace(TINY, learning_rate=1e-30, epochs=1))
    assert done.exit_code == 0, done.output
    assert "nothing to forget" in done.stdout
    assert "Control" not in done.stdout
