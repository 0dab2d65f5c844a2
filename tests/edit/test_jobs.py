"""Several processes of one run on this machine: the same bits, one error, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import oracle
import pytest
import torch
from random_models import FLOATS, draw, write

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.edit.apply import apply
from taskarith.edit.jobs import started_team
from taskarith.errors import MismatchError, OutputError, UsageError


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_no_number_of_processes_changes_a_bit(tmp_path, jobs):
    layout = {f"layer.{index}": ((37, index + 1), FLOATS[index % 4]) for index in range(12)} | {
        "n": ((3,), torch.int64)
    }
    base = draw(layout, 0)
    model = write(tmp_path / "base", base, 3)
    operands = [f"{write(tmp_path / f't{seed}', draw(layout, seed, base), 2)}@@{model}:0.{seed}" for seed in (1, 2, 3)]
    apply(model, negate=operands, alpha=0.5, output_dir=tmp_path / "out", jobs=jobs, max_shard_size=4000)
    expected = {
        name: oracle.edit(
            values,
            [draw(layout, seed, base)[name].double() - values.double() for seed in (1, 2, 3)],
            [-0.1 * 0.5, -0.2 * 0.5, -0.3 * 0.5],
            values.dtype,
        )
        if values.dtype.is_floating_point
        else values
        for name, values in base.items()
    }
    assert oracle.differing(oracle.load(tmp_path / "out"), expected) == []


@pytest.mark.parametrize("jobs", [2, 3])
def test_jobs_give_the_bits_of_one_process(tmp_path, sharded, jobs):
    base, tuned = str(sharded / "base"), str(sharded / "tuned")
    one = apply(base, add=[f"{tuned}:0.3"], output_dir=tmp_path / "one")
    many = apply(base, add=[f"{tuned}:0.3"], output_dir=tmp_path / "many", jobs=jobs)
    assert many.fingerprint == one.fingerprint == fingerprint_model(tmp_path / "many")
    tensors = [json.loads((tmp_path / name / "taskarith.json").read_text())["tensors"] for name in ("one", "many")]
    assert tensors[0] == tensors[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]


def test_an_error_of_one_process_is_that_of_the_run(tmp_path, sharded):
    base, tuned = str(sharded / "base"), str(sharded / "tuned")
    with pytest.raises(MismatchError, match="not finite"):
        apply(base, add=[f"{tuned}:1e30"], dtype="float16", output_dir=tmp_path / "out", jobs=2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="jobs is 0"):
        apply(base, add=[tuned], output_dir=tmp_path / "out", jobs=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes through /proc")
@pytest.mark.parametrize("killed", ["other", "first"])
def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(tmp_path, sharded, killed):
    base, tuned = str(sharded / "base"), str(sharded / "tuned")
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


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("MemoryError()", "error: process 2 of 2 failed: MemoryError"),
        ("OSError(28, 'No space left on device')", "error: no space left for out (No space left on device)"),
        ("KeyError('w')", "error: process 2 of 2 failed: KeyError: 'w'"),
    ],
)
def test_what_another_process_fails_with_is_said_once(tmp_path, sharded, failure, words):
    base, tuned = str(sharded / "base"), str(sharded / "tuned")
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
