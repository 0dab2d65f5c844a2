"""`taskarith ood` as a user types it."""

from __future__ import annotations

import json
import shlex

import pytest
from asking import CHAT, CHAT_OPTIONS, write_questions
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.relations.out_of_domain import out_of_domain


def run(*arguments):
    return CliRunner().invoke(app, ["ood", *map(str, arguments)])


def test_given_gammas(vectors, phi):
    a, b = vectors / "a.safetensors", vectors / "b.safetensors"
    done = run(a, b, "--gamma", "0.792,-0.637", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    literal, figure = found["programmes"]
    assert (literal["threshold"], figure["threshold"]) == (1.1, 0.2)
    first, second = literal["lambdas"]
    assert (first, second) == pytest.approx((1.1 * 1.4465, 1.1 * 0.2286), rel=1e-3)
    words = ["taskarith", "apply", str(phi), "--add", f"{a}:{first:.4g}", "--add", f"{b}:{second:.4g}"]
    assert shlex.split(found["command"]) == [*words, "-o", "combined"]


def test_an_infeasible_target_is_an_answer(vectors):
    done = run(vectors / "a.safetensors", vectors / "b.safetensors", "--gamma", "-0.5,-0.5")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("infeasible: every nonzero gamma is -0.5") == 2
    assert "taskarith apply" not in done.stdout
    capped = run(
        vectors / "a.safetensors", vectors / "b.safetensors", "--gamma=-0.2,-0.9", "--cap", 2, "--threshold", 1
    )
    assert "above the cap" in capped.stdout


def test_questions_are_asked_by_the_chat_template_if_that_is_wanted(vectors, tmp_path):
    vector, path = str(vectors / "a.safetensors"), write_questions(tmp_path)["questions"]
    done = run(vector, "--data", f"x={path}", "--inputs", 4, *CHAT_OPTIONS, "--json")
    assert done.exit_code == 0, done.stderr
    expected = out_of_domain([vector], data={"x": path}, inputs=4, **CHAT)
    assert json.loads(done.stdout) == json.loads(json.dumps(expected.to_json()))
