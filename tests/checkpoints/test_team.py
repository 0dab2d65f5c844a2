"""Several processes write one output: the same bits, one publication, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.jobs import started_team
from taskarith.errors import MismatchError, OutputError, UsageError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = tiny.save_model(folder / "base", max_shard_size="30KB")
    return str(base), str(tiny.save_model(folder / "tuned", nudge_of=base, seed=1))


@pytest.mark.parametrize("jobs", [2, 3])
def test_jobs_give_the_bits_of_one_process(tmp_path, pair, jobs):
    base, tuned = pair
    one = apply(base, add=[f"{tuned}:0.3"], output_dir=tmp_path / "one")
    many = apply(base, add=[f"{tuned}:0.3"], output_dir=tmp_path / "many", jobs=jobs)
    assert many.fingerprint == one.fingerprint == fingerprint_model(tmp_path / "many")
    tensors = [json.loads((tmp_path / name / "taskarith.json").read_text())["tensors"] for name in ("one", "many")]
    assert tensors[0] == tensors[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]


def test_an_error_of_one_process_is_that_of_the_run(tmp_path, pair):
    base, tuned = pair
    with pytest.raises(MismatchError, match="not finite"):
        apply(base, add=[f"{tuned}:1e30"], dtype="float16", output_dir=tmp_path / "out", jobs=2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="jobs is 0"):
        apply(base, add=[tuned], output_dir=tmp_path / "out", jobs=0)


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


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes through /proc")
@pytest.mark.parametrize("killed", ["other", "first"])
def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(tmp_path, pair, killed):
    base, tuned = pair
    code = (
        "import time; from taskarith.checkpoints.writer import HashingWriter; from taskarith.cli.main import main\n"
        "quick = HashingWriter.append\n"
        "def slow(*arguments):\n    quick(*arguments); time.sleep(0.4)\n"
        "HashingWriter.append = slow\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "slowly.py").write_text(code)
    arguments = ["apply", base, "--add", tuned, "-o", "out", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "slowly.py", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / ".out.partial" / "journal-1.jsonl"
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") > 2)
    team = [process.pid, *children(process.pid)]  # with multiprocessing's resource tracker
    os.kill(team[0] if killed == "first" else team[-1], signal.SIGKILL)
    _, words = process.communicate(timeout=60)
    assert process.returncode == (1 if killed == "other" else -signal.SIGKILL)
    assert killed == "first" or ("2 of 2 ended early: it was stopped by signal 9" in words and "goes on" in words)
    assert "Traceback" not in words
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in team))
    assert not (tmp_path / "out").exists()
    names = {json.loads(line)["name"] for line in journal.read_text().splitlines()[1:]}
    assert apply(base, add=[tuned], output_dir=tmp_path / "out").fingerprint == fingerprint_model(tmp_path / "out")
    assert names


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("MemoryError()", "error: process 2 of 2 failed: MemoryError"),
        ("OSError(28, 'No space left on device')", "error: no space left for out (No space left on device)"),
        ("KeyError('w')", "error: process 2 of 2 failed: KeyError: 'w'"),
    ],
)
def test_what_another_process_fails_with_is_said_once(tmp_path, pair, failure, words):
    base, tuned = pair
    code = (
        "from taskarith.checkpoints.writer import HashingWriter\n"
        "from taskarith.cli.main import main\n"
        f"def fail(*_):\n    raise {failure}\n"
        "if __name__ == '__mp_main__':\n    HashingWriter.append = fail\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "failing.py").write_text(code)
    arguments = ["failing.py", "apply", base, "--add", tuned, "-o", "out", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def waiting_member(folder, team):
    """Wait for the first process, which waits for the death of this one."""
    if team.rank:
        (folder / "pid").write_text(str(os.getpid()))
        team.wait()
        team.wait()


def test_a_process_that_is_killed_while_it_waits_is_not_waited_for(tmp_path):
    def kill_it():
        with started_team(2, waiting_member, {"folder": tmp_path}) as team:
            wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            time.sleep(0.2)
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            for _ in range(3):
                team.wait()

    with pytest.raises(OutputError, match="process 2 of 2 ended early: it was stopped by signal 9"):
        kill_it()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def test_of_several_launched_processes_the_first_one_extracts(tmp_path, pair):
    base, tuned = pair
    for rank, name in (("1", "none"), ("0", "v")):
        done = CliRunner().invoke(app, ["extract", base, tuned, "-o", str(tmp_path / name)], env={"RANK": rank})
        assert done.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
