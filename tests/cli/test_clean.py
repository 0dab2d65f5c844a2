"""`taskarith clean` as a user types it."""

from __future__ import annotations

import json

import pytest
from commands import invoke
from forgetting import make_run


@pytest.fixture
def run(tmp_path, phi):
    return make_run(tmp_path, phi)


def test_it_lists_what_it_removes_and_what_it_cannot(run):
    listed = invoke("clean", run, "--forget-data", "--dry-run")
    done = invoke("clean", run, "--forget-data")
    assert listed.exit_code == done.exit_code == 0, done.output
    assert listed.stdout == done.stdout
    assert str(run / "forget.safetensors") in done.stdout.splitlines()
    assert "would be removed" in listed.stderr
    assert "not removed: the text itself: " in done.stderr
    assert "removed: nothing" in invoke("clean", run, "--forget-data").stderr
    assert json.loads(invoke("clean", run, "--forget-data", "--json").stdout)["removed"] == []


def test_without_the_word_it_removes_nothing(run):
    done = invoke("clean", run)
    assert done.exit_code == 2
    assert "Add --forget-data" in done.stderr
    assert (run / "forget.safetensors").exists()
