"""`taskarith unlearn` as a user types it."""

from __future__ import annotations

import pytest
import tiny
from commands import invoke


@pytest.fixture
def words(tmp_path, phi):
    for seed, name in enumerate(("forget", "retain", "holdout")):
        (tmp_path / f"{name}.txt").write_text(tiny.text(12, seed), encoding="utf-8")
    texts = [f"--{name}={tmp_path / f'{name}.txt'}" for name in ("forget", "retain", "holdout")]
    return ["unlearn", phi, *texts, "--block-size", 24, "--prompts", 2, "--prompt-tokens", 4, "-o", tmp_path / "run"]


def test_a_dry_run_prints_the_commands_and_writes_nothing(words, tmp_path):
    done = invoke(*words, "--dry-run")
    assert done.exit_code == 0, done.output
    commands = [line.split()[1] for line in done.stdout.splitlines()]
    assert commands == [
        "eval",
        "finetune",
        "extract",
        "finetune",
        "extract",
        "relate",
        "sweep",
        "apply",
        "eval",
        "attack",
    ]
    assert "missing for a full proof: --reference" in done.stderr
    assert "texts: forget" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_was_never_known_is_no_error_but_no_success(words, tmp_path):
    done = invoke(*words)
    assert done.exit_code == 1
    assert "nothing to forget" in done.stdout
    assert "error" not in done.output
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--alpha", "x"], "x"),
        (["--keep", "2"], "--keep 2"),
        (["--forget", "gone.txt"], "gone.txt"),
        (["--base", "gone"], "gone"),
    ],
)
def test_wrong_calls_are_said_before_anything_is_written(words, tmp_path, more, said):
    done = invoke(*words, *more)
    assert done.exit_code in {1, 2}
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_retain_set_is_asked_for(phi):
    done = invoke("unlearn", phi, "--forget", "x.txt")
    assert done.exit_code == 2
    assert "--retain" in done.stderr
