"""Several processes write one output: the same bits, one publication, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.team import told_of_the_dead
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import OutputError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = tiny.save_model(folder / "base", max_shard_size="30KB")
    return str(base), str(tiny.save_model(folder / "tuned", nudge_of=base, seed=1))


def launch(rank, port, arguments, folder):
    environment = os.environ | {
        "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "taskarith", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_launched_processes_write_one_output(tmp_path, pair):
    base, tuned = pair
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["apply", base, "--negate", f"{tuned}:0.7", "-o", "out", "--json"]
    started = [launch(rank, port, arguments, tmp_path) for rank in range(2)]
    words = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], words
    assert json.loads(words[0][0])["fingerprint"] == fingerprint_model(tmp_path / "out")
    assert words[1][0] == ""
    assert apply(base, negate=[f"{tuned}:0.7"], output_dir=tmp_path / "one").fingerprint == fingerprint_model(
        tmp_path / "out"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out"]


def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path, pair):
    base, tuned = pair
    for name, seed in (("forget", 1), ("holdout", 2)):
        (tmp_path / f"{name}.txt").write_text(tiny.text(16, seed), encoding="utf-8")
    sizes = ["--block-size", "24", "--prompts", "5", "--prompt-tokens", "6", "--continuation-tokens", "6"]
    asked = ["--data", "forget=forget.txt", "--data", "holdout=holdout.txt", *sizes, "--batch-size", "3"]
    for edit in (["--retain", tuned], ["--negate", tuned, "--alpha", "0,0.5"]):
        command = ["-m", "taskarith", "eval", base, *edit, *asked, "--json", "--overwrite", "-o"]
        two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        # torch's products depend on the number of threads on some processors
        threads = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        found = [
            subprocess.run(
                [*how, *command, name], cwd=tmp_path, env=threads, capture_output=True, text=True, check=False
            )
            for how, name in (([sys.executable], "one"), (two, "two"))
        ]
        assert [done.returncode for done in found] == [0, 0], found
        assert found[0].stdout == found[1].stdout
        for name in ("results.json", "records.jsonl"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        records = [json.loads((tmp_path / name / "taskarith.json").read_text()) for name in ("one", "two")]
        assert [record["arguments"]["processes"] for record in records] == [1, 2]


@pytest.mark.parametrize("verb", ["eval", "finetune", "apply"])
def test_one_process_where_several_were_asked_for_is_refused(tmp_path, pair, verb):
    """accelerate starts one process for --cpu --num_processes 2, and says nothing."""
    (tmp_path / "t.txt").write_text(tiny.text(16, 1), encoding="utf-8")
    base, tuned = pair
    data = {"eval": ["--data", "a=t.txt", "--prompts", "0"], "finetune": ["--data", "t.txt"], "apply": ["--add", tuned]}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "-m", "taskarith", verb, base, *data[verb], "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "asked for several processes and started one" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["extract", "importance"])
def test_of_several_launched_processes_the_first_one_extracts(tmp_path, pair, verb):
    base, tuned = pair
    text = tmp_path / "t.txt"
    text.write_text(tiny.text(4, 1), encoding="utf-8")
    given = {"extract": [tuned], "importance": ["--forget", str(text), "--retain", str(text), "--block-size", "32"]}
    for rank, name in (("1", "none"), ("0", "v.safetensors")):
        arguments = [verb, base, *given[verb], "-o", str(tmp_path / name)]
        done = CliRunner().invoke(app, arguments, env={"RANK": rank})
        assert done.exit_code == 0
        assert bool(done.stdout) == (rank == "0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.safetensors"]


def test_an_attack_by_two_processes_is_that_of_one(tmp_path, pair):
    base, tuned = pair
    (tmp_path / "t.txt").write_text(tiny.text(16, 1), encoding="utf-8")
    sizes = ["--block-size", "32", "--prompts", "5", "--prompt-tokens", "8", "--continuation-tokens", "6"]
    sizes += ["--prefixes", "4,12", "--draws", "2", "--bits", "4", "--relearn-steps", "1,3", "--batch-size", "3"]
    command = ["-m", "taskarith", "attack", base, "--forget", "t.txt", "--before", tuned, *sizes, "-o"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for how, name in (([sys.executable], "one"), (two, "two")):
        done = subprocess.run(
            [*how, *command, name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for name in ("results.json", "records.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "t.txt", "two"]


def test_of_several_processes_one_says_what_is_wrong(tmp_path, pair):
    base, _ = pair
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*two, "-m", "taskarith", "finetune", base, "--data", "absent.txt", "-o", "out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
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
