"""Several processes write one output: the same bits, one publication, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from preloaded import run_together
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.team import ALONE, told_of_the_dead
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import OutputError
from taskarith.relations.importance import KINDS


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = tiny.save_model(folder / "base", max_shard_size="30KB")
    return str(base), str(tiny.save_model(folder / "tuned", nudge_of=base, seed=1))


@pytest.fixture(name="run")
def run_fixture(preloaded, tmp_path):
    """Run a command as so many processes in the test's folder, and return what they printed."""

    def run(processes: int, *words: str) -> list[str]:
        done = run_together(processes, preloaded / "taskarith", words, tmp_path)
        assert {each.returncode for each in done} == {0}, done
        return [each.stdout for each in done]

    return run


def run_launched(launcher: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    words = [sys.executable, "-m", *launcher]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_launched_processes_write_one_output(tmp_path, pair, run):
    base, tuned = pair
    first, second = run(2, "apply", base, "--negate", f"{tuned}:0.7", "-o", "out", "--json")
    assert json.loads(first)["fingerprint"] == fingerprint_model(tmp_path / "out")
    assert second == ""
    assert apply(base, negate=[f"{tuned}:0.7"], output_dir=tmp_path / "one").fingerprint == fingerprint_model(
        tmp_path / "out"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out"]


def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path, pair, run):
    base, tuned = pair
    for name, seed in (("forget", 1), ("holdout", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(16, seed), encoding="utf-8")
    sizes = ["--block-size", "24", "--prompts", "5", "--prompt-tokens", "6", "--continuation-tokens", "6"]
    asked = ["--data", "forget=forget.txt", "--data", "holdout=holdout.txt", *sizes, "--batch-size", "3", "--lens", "2"]
    for edit in (["--reference", tuned], ["--negate", tuned, "--alpha", "0,0.5"]):
        command = ["eval", base, *edit, *asked, "--json", "--overwrite", "-o"]
        [alone], [first, second] = run(1, *command, "one"), run(2, *command, "two")
        assert (alone, second) == (first, "")
        for name in ("results.json", "records.jsonl"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        records = [json.loads((tmp_path / name / "taskarith.json").read_text()) for name in ("one", "two")]
        assert [record["arguments"]["processes"] for record in records] == [1, 2]


def test_one_process_where_several_were_asked_for_is_refused(tmp_path, pair, preloaded):
    """accelerate starts one process for --cpu --num_processes 2, and says nothing."""
    (tmp_path / "t.txt").write_text(tiny.text(16, 1), encoding="utf-8")
    base, tuned = pair
    commands = ["eval BASE --data a=t.txt --prompts 0", "finetune BASE --data t.txt", f"apply BASE --add {tuned}"]
    script = "\n".join(f"{preloaded}/taskarith {words.replace('BASE', base)} -o out && exit 7" for words in commands)
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--no_python"]
    done = run_launched([*launcher, "sh", "-c", f"{script}\nexit 0"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("asked for several processes and started one") == 3
    assert not (tmp_path / "out").exists()


def test_of_several_launched_processes_the_first_one_extracts(tmp_path, pair):
    for rank, name in (("1", "none"), ("0", "v.safetensors")):
        done = CliRunner().invoke(app, ["extract", *pair, "-o", str(tmp_path / name)], env={"RANK": rank})
        assert done.exit_code == 0
        assert bool(done.stdout) == (rank == "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.safetensors"]


def test_relations_by_two_processes_are_those_of_one(tmp_path, pair, run):
    base, tuned = pair
    other = str(tiny.save_model(tmp_path / "other", nudge_of=Path(base), seed=2))
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(16, seed), encoding="utf-8")
    vectors = [tuned, other, "--model", base, "--block-size", "16", "--inputs", "21", "--json"]
    for command in (
        ["relate", *vectors, "--data", "a=a.txt", "--data", "b=b.txt", "--rank", "2"],
        ["relate", *vectors[:4], "--json", "--overwrite", "--plot", "plot.svg"],
        ["ood", *vectors, "--data", "target=a.txt"],
    ):
        [alone], [first, second] = run(1, *command), run(2, *command)
        assert (alone, second) == (first, "")
    assert (tmp_path / "plot.svg").is_file()


def test_weights_of_parameters_by_two_processes_are_those_of_one(tmp_path, pair, run):
    for name, sentences in (("a", 16), ("b", 9)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(sentences), encoding="utf-8")
    sides = ["--forget", "a.txt", "--retain", "b.txt", "--block-size", "24"]
    for kind in KINDS:
        command = ["importance", pair[0], *sides, "--kind", kind, "-o"]
        [alone], [first, second] = run(1, *command, f"{kind}-1"), run(2, *command, f"{kind}-2")
        assert (alone[:-2], second) == (first[:-2], "")
        one, two = (load_file(tmp_path / f"{kind}-{processes}") for processes in (1, 2))
        assert all(torch.equal(values, two[name]) for name, values in one.items())
    assert len(list(tmp_path.iterdir())) == 6


def test_an_attack_by_two_processes_is_that_of_one(tmp_path, pair, run):
    base, tuned = pair
    (tmp_path / "t.txt").write_text(tiny.text(16, 1), encoding="utf-8")
    sizes = ["--block-size", "32", "--prompts", "5", "--prompt-tokens", "8", "--continuation-tokens", "6"]
    sizes += ["--prefixes", "4,12", "--draws", "2", "--bits", "4", "--relearn-steps", "1,3", "--batch-size", "3"]
    for processes, name in ((1, "one"), (2, "two")):
        run(processes, "attack", base, "--forget", "t.txt", "--before", tuned, *sizes, "-o", name)
    for name in ("results.json", "records.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "t.txt", "two"]


def test_of_several_processes_one_says_what_is_wrong(tmp_path, pair, preloaded):
    """As torchrun starts them."""
    base, _ = pair
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [f"{preloaded}/taskarith", "finetune", base, "--data", "absent.txt", "-o", "out"]
    done = run_launched([*launcher, *command], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "absent.txt" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_a_library_says_of_a_dead_process_is_explained():
    dead = "another process of this run ended early, or cannot be reached"
    with pytest.raises(OutputError, match=dead), told_of_the_dead():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shapes differ"), told_of_the_dead():
        raise RuntimeError("shapes differ")


def test_one_process_is_a_team_of_its_own():
    assert (ALONE.rank, ALONE.size, ALONE.local_size, ALONE.is_first) == (0, 1, 1, True)
    assert ALONE.share([3, 1, 2]) == [3, 1, 2]
    assert (ALONE.gather("x"), ALONE.add(7)) == (["x"], 7)
