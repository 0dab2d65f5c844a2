"""The demo on a tiny model: its path, its numbers, its words, and the commands that it says do the same."""

from __future__ import annotations

import json

import pytest
from tiny_demo import TINY
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.demo.run import TEXTS, run_demo
from taskarith.errors import OutputError


def test_every_number_and_every_promised_file_is_there(shown):
    result, lora = shown
    assert list(result.curve) == sorted(result.curve)
    assert {0.0, 0.5, 1.0} <= result.curve.keys()
    assert list(result.control) == ["forgotten", "aligned", "irrelevant", "random"]
    assert result.control["forgotten"] == result.curve[1.0]
    for scores in (result.base, *result.curve.values()):
        assert list(scores) == list(TEXTS)
        assert all(text["rouge_l_f1"].n == 2 and text["loss"].n > 1 for text in scores.values())
    saved = json.loads((result.output_dir / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    names = {path.name for path in result.output_dir.iterdir()}
    expected = {"texts", "tuned", "alpha.png", "alpha.svg", "results.json", "taskarith.json", "forgotten.safetensors"}
    expected |= (
        {f"learned-{text}" for text in TEXTS} | {"tuned-adapter"} if lora else {f"{t}.safetensors" for t in TEXTS}
    )
    assert names - {"edited"} == expected
    assert ("edited" in names) == (result.recommended is not None)


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


def test_only_the_folder_of_a_demo_is_replaced(tmp_path, phi):
    thesis = tmp_path / "d" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("precious")
    for overwrite, words in ((False, "already exists"), (True, "is kept: thesis.txt")):
        with pytest.raises(OutputError, match=words):
            run_demo(str(phi), thesis.parent, scale=TINY, overwrite=overwrite)
    assert thesis.read_text() == "precious"
