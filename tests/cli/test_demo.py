"""`taskarith demo` as a user types it."""

from __future__ import annotations

from tiny_demo import TINY
from typer.testing import CliRunner

from taskarith.cli.main import app


def test_the_command_shows_both_tables_and_says_what_it_found(tmp_path, phi, monkeypatch):
    monkeypatch.setattr("taskarith.demo.run.QUICK", TINY)
    done = CliRunner().invoke(app, ["demo", "--model", str(phi), "-o", str(tmp_path / "d"), "--quick"])
    assert done.exit_code == 0, done.output
    for words in (
        "loss, top-1 accuracy, ROUGE-L on:",
        "tuned on all three",
        "Control",
        "the random one",
        "alpha.png",
    ):
        assert words in done.stdout
    assert "No alpha is recommended: forgetting is not reached, or not shown." in done.stdout
    assert "by loss" in done.stdout
    assert "the base" in done.stdout
    assert done.stdout.count("  taskarith ") == 4  # a model of random weights learns nothing that could be forgotten
