"""`taskarith finetune` as a user types it."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
import typer
from typer.testing import CliRunner

from taskarith.cli import finetune as finetune_cli
from taskarith.cli.guard import guarded
from taskarith.training.finetune import finetune
from taskarith.training.settings import TrainingKeywords, TrainingSettings


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    made.command("finetune")(guarded(finetune_cli.command))
    return made


def test_command_says_what_is_wrong_in_two_lines(tmp_path, book, phi, app):
    words = [str(phi), "--data", str(book), "-o", str(tmp_path / "out")]
    for more, code, first in (
        (["--lora-rank", "4"], 2, "error: a LoRA option is given without --lora"),
        (["--data", str(tmp_path / "absent.txt")], 1, "error: there is no file"),
        (["--block-size", "4096"], 2, "error: --block-size 4096 exceeds the 256 positions"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        lines = done.stderr.strip().splitlines()
        assert done.exit_code == code
        assert len(lines) == 2
        assert lines[0].startswith(first)
        assert lines[1].startswith("hint:  ")
        assert done.stdout == ""


def test_the_learning_curve_is_plotted_beside_the_output(tmp_path, book, phi, app):
    words = [str(phi), "--data", str(book), "-o", str(tmp_path / "out"), "--block-size", "32", "--device", "cpu"]
    words += ["--max-steps", "2", "--validation-share", "0.2", "--plot"]
    for plot, message in (
        (tmp_path / "curve.gif", "error: cannot write a plot to"),
        (tmp_path / "out/curve.png", "would lie in the output"),
        (book, "error: cannot write a plot to"),
    ):
        refused = CliRunner().invoke(app, [*words, str(plot)])
        assert refused.exit_code == 1
        assert message in refused.stderr
    done = CliRunner().invoke(app, [*words, str(tmp_path / "curve.png"), "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads(done.stdout)
    assert [step for step, _ in result["training_losses"]] == [1, 2]
    assert [step for step, _ in result["validation_losses"]] == [0, 2]
    assert "lowest after step 2: published" in done.stderr


def test_every_setting_is_an_option_and_a_keyword_with_one_default():
    fields = {one.name: one.default for one in dataclasses.fields(TrainingSettings)}
    options = inspect.signature(guarded(finetune_cli.command)).parameters
    assert fields.keys() == TrainingKeywords.__optional_keys__
    assert options.keys() - fields.keys() == {
        *inspect.signature(finetune).parameters.keys() - {"settings", "keywords", "listener"},
        *("config", "as_json", "quiet", "verbose", "plot", "dry_run"),
    }
    assert {name: options[name].default for name in fields} == {
        name: None if default in ("", ()) else default for name, default in fields.items()
    }
