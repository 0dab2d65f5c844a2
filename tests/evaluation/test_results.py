"""What is measured outlives a kill: eval, sweep and attack go on where they stopped, and end with the same bytes."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from taskarith.checkpoints.journal import Journal
from taskarith.checkpoints.units import Batches, Units
from taskarith.cli.main import app
from taskarith.data.tokens import Sample
from taskarith.errors import OutputError
from taskarith.evaluation import generation, loss, measure, models
from taskarith.evaluation.batches import in_batches
from taskarith.evaluation.loss import TokenScore
from taskarith.evaluation.read_records import read_rows
from taskarith.sweeps.trial import unpack
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    base = tiny.save_model(place / "base")
    for seed, name in enumerate(("tuned", "never"), start=1):
        tiny.save_model(place / name, nudge_of=base, seed=seed)
    extract(str(base), str(place / "tuned"), place / "v.safetensors")
    for seed, name in enumerate(("forget", "holdout")):
        (place / f"{name}.txt").write_text(tiny.text(7, seed), encoding="utf-8")
    return place


TEXTS = ["--data", "forget=forget.txt", "--data", "holdout=holdout.txt"]
SMALL = ["--block-size", "32", "--batch-size", "4", "--prompt-tokens", "4", "--continuation-tokens", "4"]
ASKED = [*TEXTS, *SMALL, "--prompts", "2"]
SWEEP = ["sweep", "tuned", "--negate", "v.safetensors", *TEXTS, *SMALL, "--prompts", "1", "--budget", "9"]
COMMANDS = {
    "eval": ["eval", "base", "tuned", "--reference", "never", *ASKED],
    "eval of an edit": ["eval", "base", "--add", "v.safetensors", "--alpha", "0,1", *ASKED, "--batch-size", "auto"],
    "sweep": [*SWEEP, "--alpha", "0,1"],
    "sweep --search": [*SWEEP, "--search", "4", "--kl", "1", "--alpha", "0,1"],
    "sweep --gradient": [*SWEEP, "--gradient", "2", "--alpha", "0,1"],
    "attack": [
        "attack", "tuned", "--forget", "forget.txt", "--reference", "never", "--relearn-epochs", "0",
        *SMALL, "--prompts", "2", "--prefixes", "4", "--relearn-steps", "1,2", "--bits", "8", "--draws", "1",
    ],
}  # fmt: skip
PASSING = {"time", "command", "digest", "files"}


class Killed(BaseException):
    """Stands for SIGKILL: what lay in the room when it came is put back there."""


class Kills:
    """Keeps a copy of the room after so many more units, and stops the run."""

    def __init__(self, monkeypatch):
        self.after, self.count, self.room, self.kept = 0, 0, Path(), Path()
        self.names: list[str] = []
        record = Journal.record

        def watched(journal: Journal, name, entry):
            record(journal, name, entry)
            self.names.append(name)
            self.count += 1
            if self.count == self.after:
                shutil.copytree(self.room, self.kept)
                raise Killed

        monkeypatch.setattr(Journal, "record", watched)

    def run(self, words, out, after=0, *, torn=False):
        """Run a command, killed after some units; return how it ended, or None."""
        self.after, self.count = after, 0
        self.room, self.kept = out.with_name(f".{out.name}.partial"), out.with_name("kept")
        done = CliRunner().invoke(app, [*words, "-o", str(out)], catch_exceptions=False) if not after else None
        if after:
            with pytest.raises(Killed):
                CliRunner().invoke(app, [*words, "-o", str(out)], catch_exceptions=False)
            shutil.rmtree(self.room)
            shutil.move(self.kept, self.room)
            journal = self.room / "journal.jsonl"
            if torn:  # a line that was cut off
                journal.write_bytes(journal.read_bytes()[:-20])
        return done


@pytest.fixture
def kills(made, monkeypatch):
    monkeypatch.chdir(made)
    return Kills(monkeypatch)


def contents(out):
    dated = {"report.html"}  # which also names its folder
    found = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".svg" and path.name not in dated}
    record = json.loads(found.pop("taskarith.json"))
    assert dated <= record["files"].keys()
    record["files"] = {name: digest for name, digest in record["files"].items() if name not in dated}
    return found, {key: value for key, value in record.items() if key not in PASSING}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, kills, name):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert kills.run(COMMANDS[name], whole).exit_code == 0
    names = list(kills.names)
    assert len(set(names)) == len(names)
    kills.names.clear()
    step = len(names) * (2 if "sweep" in name else 1) // 3 + 1
    kills.run(COMMANDS[name], out, step, torn=True)
    assert not out.exists()
    done = kills.run(COMMANDS[name], out)
    assert done.exit_code == 0, done.stderr
    assert f"going on after {step - 1} pieces of work" in " ".join(done.stderr.split())
    again = [one for one in set(kills.names) if kills.names.count(one) > 1]
    assert set(kills.names) == set(names)
    assert len(again) == 1  # the one whose line was cut off
    assert contents(out) == contents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_what_is_finished_loads_no_model(tmp_path, kills, monkeypatch):
    words, out = COMMANDS["eval"], tmp_path / "out"
    kills.run(words, tmp_path / "whole")
    last = len(kills.names) - 1 - next(i for i, one in enumerate(reversed(kills.names)) if one == "base | all")
    kills.run(words, out, last + 1)
    loaded, load = [], models.load_model
    monkeypatch.setattr(
        models, "load_model", lambda path, *rest, **more: loaded.append(path.name) or load(path, *rest, **more)
    )
    assert kills.run(words, out).exit_code == 0
    assert loaded == ["never", "tuned"]  # the one that others are compared with, and the one that was not measured
    assert contents(out) == contents(tmp_path / "whole")


def test_work_of_other_options_is_neither_used_nor_dropped_unasked(tmp_path, kills):
    words, out = COMMANDS["eval of an edit"], tmp_path / "out"
    kills.run(words, out, 3)
    other = kills.run([*words, "--seed", "1", "--prompts", "4"], out)
    said = " ".join(other.stderr.split())
    assert other.exit_code == 1
    assert "an interrupted run that differs in models, prompts, seed has left 3 finished pieces" in said
    assert "Repeat that command to go on with it, or start over with --overwrite." in said
    assert (tmp_path / ".out.partial" / "journal.jsonl").read_bytes().count(b"\n") == 4
    over = kills.run([*words, "--seed", "1", "--overwrite"], out)
    assert over.exit_code == 0
    assert "3 pieces of work are dropped" in " ".join(over.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("line", [b"", b"[" * 5000, b'{"plan": 1, "run": 2}'])
def test_a_damaged_journal_is_neither_used_nor_dropped_unasked(tmp_path, kills, line):
    words, out = COMMANDS["eval of an edit"], tmp_path / "out"
    room = tmp_path / ".out.partial"
    room.mkdir()
    (room / "lock").touch()
    (room / "journal.jsonl").write_bytes(line + b'\n{"name": "x", "check": "y"}\n')
    done = kills.run(words, out)
    assert done.exit_code == 1
    assert "that cannot be told has left 1 finished pieces" in " ".join(done.stderr.split())


def test_a_row_that_cannot_be_measured_is_left_out_and_named(tmp_path, made, kills):
    broken = tiny.save_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    lacking = tiny.save_model(tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    save_file(
        {key: one for key, one in weights.items() if "norm" not in key}, lacking / "model.safetensors", {"format": "pt"}
    )
    done = kills.run(["eval", "base", str(broken), str(lacking), *ASKED], tmp_path / "out")
    said = " ".join(done.stderr.split())
    assert done.exit_code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["models"] == ["base"]
    for name in (broken, lacking):
        assert f"{name} is left out: " in said
        assert any(one.startswith(f"{name} is left out: ") for one in found["remarks"])
    alone = kills.run(["eval", str(broken), *ASKED], tmp_path / "alone")
    assert alone.exit_code == 1
    assert "is not finite" in alone.stderr


# what a stranger may have written


SAMPLES = [Sample("a", (1, 2, 3), 0), Sample("b", (1, 2, 3, 4), 2)]
SCORE = [[1.0, 2.0], [True, False], [0.5, 0.5], None, None]
READERS = {
    "losses": lambda units: Batches(units, TokenScore.pack, partial(loss._unpack, SAMPLES, False)).finished(),
    "continuations": lambda units: Batches(units, list, generation._unpack).finished(),
    "records": lambda units: units.get("unit", partial(read_rows, "model")),
    "size": lambda units: units.get("unit", measure._read_size),
    "trial": lambda units: units.get("unit", unpack),
}
WRONG = [
    None, "x", True, -1, 0, 2.5, {"a": 1}, {"forget": {"a": "x"}, "keep": {}, "kl": 0}, [10**400],
    [[0]], [[0], [1.0]], [[[]], [SCORE]], [[9], [SCORE]], [["0"], [SCORE]], [{"kind": "loss"}], [{"kind": 1}],
    [[0], [[[1.0], [True], [0.5], None, None]]], [[0], [[["x", 2.0], *SCORE[1:]]]],
    [[0], [[[1.0, 2.0], [1, 5], *SCORE[2:]]]],
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("reader", READERS)
def test_what_no_run_can_have_written_is_refused(reader, value, tmp_path):
    units = Units(SimpleNamespace(done={"unit": {"value": value}}), tmp_path)
    with pytest.raises(OutputError, match="that no run of this command has measured"):
        READERS[reader](units)


def test_what_was_written_is_read_again(tmp_path):
    score = TokenScore(np.float32([0.1, 2]), np.array([True, False]), np.float32([1e-9, 3]), 0.1, 2)
    plain = json.loads(json.dumps(score.pack()))
    found = TokenScore.unpack(plain, SAMPLES[0], is_compared=True)
    assert all(np.array_equal(getattr(found, name), getattr(score, name)) for name in ("losses", "hits", "z_scores"))
    assert (found.kl, found.agreed, found.nll) == (score.kl, score.agreed, score.nll)
    with pytest.raises(TypeError):
        TokenScore.unpack([*plain[:3], None, None], SAMPLES[0], is_compared=True)


# batches


@pytest.mark.parametrize("most", [4, 1])
def test_batches_that_are_kept_are_not_run_again(tmp_path, most):
    """Whatever the size at which memory ran out."""
    ran = []

    def run(items):
        ran.append(tuple(items))
        if len(items) > most:
            raise torch.OutOfMemoryError("no memory")
        return [f"item {item}" for item in items]

    with closing(Journal(tmp_path / "journal", "plan")) as journal:
        kept = Batches(Units(journal), str, lambda _, value: value)
        first = in_batches([5] * 7, run, 4, shrink=True, kept=kept)
    before = [one for one in ran if len(one) <= most]
    ran.clear()
    with closing(Journal(tmp_path / "journal", "plan")) as journal:
        kept = Batches(Units(journal), str, lambda _, value: value)
        assert in_batches([5] * 7, run, 4, shrink=True, kept=kept) == first == [f"item {item}" for item in range(7)]
    assert not set(ran) & set(before)
