"""`taskarith attack` as a user types it."""

from __future__ import annotations

import json

import pytest
from attacking import FEW, run


def test_without_references_what_is_missing_is_told(phi, forget):
    done = run(phi, "--forget", forget, "--attacks", "quantise", "--bits", "4", *FEW, "--json")
    assert done.exit_code == 0, done.stderr
    results = json.loads(done.stdout)
    plain, found = results["outcomes"]
    assert (plain["attack"], plain["name"]) == ("none", "edited")
    assert found["cells"]["loss"]["recovered"] is None
    assert [line.partition(":")[0] for line in results["missing"]] == ["recovered and beyond", "beyond"]
    assert "needs a model that never knew the text (--reference)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{phi}"], 2, "--forget"),
        (["{phi}", "--forget", "{text}.gone"], 1, "forget.txt.gone"),
        (["{phi}", "--forget", "{empty}"], 1, "empty.txt has no text"),
        (["{phi}", "--forget", "{text}", "--block-size", "99", "--relearn-samples", "2"], 1, "has 2 samples, too few"),
        (["{phi}", "--forget", "{text}", "--prefixes", "9999"], 1, "too few for a context of 9999"),
        (["{phi}", "--forget", "{text}", "--block-size", "300"], 2, "256 positions"),
        (["{phi}", "--forget", "{text}", "--attacks", "relearn,guess"], 2, "--attacks relearn,guess cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,1"], 2, "--bits 1 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,8"], 2, "--bits 8,8 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "4g0"], 2, "--bits 4g0 cannot be used"),
        (["{phi}", "--forget", "{text}", "--relearn-epochs", "-1"], 2, "--relearn-epochs -1 is out of range"),
        (["{phi}", "--forget", "{text}", "--relearn-steps", "0,2"], 2, "--relearn-steps 0,2 cannot be used"),
        (["{phi}", "--forget", "{text}", "--batch-size", "4,8"], 2, "--batch-size 4,8"),
        (["{phi}", "--forget", "{text}", "--prompts", "0"], 2, "--prompts 0 is out of range"),
        (["{phi}", "--forget", "{text}", "--learning-rate", "nan"], 2, "--learning-rate nan is out of range"),
        (["{phi}", "--forget", "{text}", "--dtype", "bfloat16"], 2, "relearning needs float32 weights"),
        (["{phi}", "--forget", "{text}", "--before", "{phi}"], 2, "a model is given twice"),
        (
            ["{phi}", "--forget", "{text}", "--attacks", "prefix", "--unrelated", "{text}"],
            2,
            "--unrelated needs the attack relearn",
        ),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(arguments, code, message, phi, forget, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    result = run(*(a.format(phi=phi, text=forget, empty=empty) for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
