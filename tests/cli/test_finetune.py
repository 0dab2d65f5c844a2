"""`taskarith finetune` as a user types it."""

from __future__ import annotations

import dataclasses
import inspect

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


def test_every_setting_is_an_option_and_a_keyword_with_one_default():
    fields = {one.name: one.default for one in dataclasses.fields(TrainingSettings)}
    options = inspect.signature(guarded(finetune_cli.command)).parameters
    assert fields.keys() == TrainingKeywords.__optional_keys__
    assert options.keys() - fields.keys() == {
        *inspect.signature(finetune).parameters.keys() - {"settings", "keywords", "listener"},
        *("config", "as_json", "quiet"),
    }
    assert {name: options[name].default for name in fields} == {
        name: None if default in ("", ()) else default for name, default in fields.items()
    }
