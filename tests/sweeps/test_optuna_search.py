"""Searches by optuna: they go on where they stopped, and a storage that cannot be used is named."""

from __future__ import annotations

import sys

import pytest
from sweeping import LOSSES, OPTIONS, command

from taskarith.errors import OutputError
from taskarith.sweeps.optuna_search import load_optuna, open_study
from taskarith.sweeps.sweep import sweep


def test_a_search_goes_on_where_it_stopped(lab, tmp_path):
    pytest.importorskip("optuna")
    options = {"negate": [lab["forget"]], "add": [lab["retain"]], "reference": lab["base"], **LOSSES}
    whole = sweep(lab["tuned"], lab["data"], **options, search=8)
    file = str(tmp_path / "trials.jsonl")
    first = sweep(lab["tuned"], lab["data"], **options, search=6, storage=file)
    assert first.trials == whole.trials[:6]
    second = sweep(lab["tuned"], lab["data"], **options, search=8, storage=file)
    assert second.trials == whole.trials
    again = sweep(lab["tuned"], lab["data"], **options, search=3, storage=file)
    assert len(again.trials) == 8  # nothing is tried, nothing is lost
    other = sweep(lab["tuned"], lab["data"], **options | {"add": []}, search=2, storage=file)
    assert len(other.trials) == 2  # another problem
    assert whole.names == ("1 learned-1", "2 learned-0")
    assert [trial.values[0] for trial in whole.trials[:5]] == [0.0] * 5  # plain negation first
    kept = sweep(lab["tuned"], lab["data"], **options, search=1, storage=f"sqlite:///{tmp_path / 'trials.db'}")
    assert len(kept.trials) == 1


def test_a_search_without_its_extra_names_it(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = command(lab, "--negate", lab["forget"], "--search", "3", "--target", "1", *OPTIONS)
    assert done.exit_code == 2
    assert "taskarith[search]" in done.stderr


def test_a_storage_that_cannot_be_used_is_named(lab, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "file").write_text("")
    for storage in (f"{tmp_path / 'file'}/trials.jsonl", "nosuchbase://x"):
        done = command(
            lab, "--negate", lab["forget"], "--search", "3", "--target", "1", "--storage", storage, "--prompts", "0"
        )
        assert done.exit_code == 1, done.output
        assert "cannot store trials in" in done.stderr
    for text in ("thesis", "thesis\n", '{"a": 1}\n', "one\ntwo\n", '"op_code"'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(OutputError, match="kept as it is"):
            open_study(load_optuna(), str(tmp_path / "file"), "study")
        assert (tmp_path / "file").read_text() == text
