"""`taskarith ood` as a user types it."""

from __future__ import annotations

import json
import shlex

import pytest
from typer.testing import CliRunner

from taskarith.cli.main import app


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
    assert done.stdout.count("infeasible: every gamma that is not 0 is -0.5") == 2
    assert "taskarith apply" not in done.stdout
    capped = run(
        vectors / "a.safetensors", vectors / "b.safetensors", "--gamma=-0.2,-0.9", "--cap", 2, "--threshold", 1
    )
    assert "above the cap" in capped.stdout
