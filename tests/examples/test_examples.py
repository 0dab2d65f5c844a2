"""The example script as a user runs it, with a tiny Phi in place of Phi-1.5."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

SCRIPT = Path(__file__).parents[2] / "examples/forget_a_book/forget_a_book.sh"


def run(*arguments, cwd):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(argument) for argument in (SCRIPT, *arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )


@pytest.mark.parametrize("extra", [[], ["--lora"]], ids=["full", "lora"])
def test_a_book_is_forgotten(tmp_path, phi, extra):
    for name, seed in (("forget", 1), ("retain", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(60, seed), encoding="utf-8")
    training = ["--learning-rate", "1e-2", "--max-steps", "8", "--per-device-train-batch-size", "2", *extra]
    options = ["--forget", "forget.txt", "--retain", "retain.txt", "--model", phi, "--alpha", "0.75", "--output", "out"]
    done = run(*options, "--", "--block-size", "64", *training, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out/scores/results.json").read_text())["scores"]
    base, edited = scores[str(phi)], scores["out/edited"]
    forgotten = edited["forget"]["loss"]["value"]
    assert forgotten > base["forget"]["loss"]["value"] + 0.03
    alphas = json.loads((tmp_path / "out/alphas/results.json").read_text())["scores"]
    assert len(alphas) == 5
    assert alphas[f"{phi} alpha=0.75"]["forget"]["loss"]["value"] == pytest.approx(forgotten, rel=1e-6)


def test_a_wrong_call_says_how_to_call(tmp_path):
    done = run("--forget", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: forget_a_book.sh" in done.stderr
    (tmp_path / "out").mkdir()
    done = run("--forget", "x", "--retain", "y", "--output", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "out exists" in done.stderr
