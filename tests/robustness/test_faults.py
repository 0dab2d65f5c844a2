"""What disturbs a command from outside: a reduced run of ``make faults``, and each kind of thing that it found."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from transformers import Trainer

from benchmarks.robustness.faults.commands import Command
from benchmarks.robustness.faults.runs import Ended
from benchmarks.robustness.faults.stage import Stage, contents
from taskarith.checkpoints import leftovers, publish
from taskarith.checkpoints.lock import check_unlocked, lock_folder
from taskarith.cli.guard import FAULT
from taskarith.console import Console
from taskarith.edit.apply import apply
from taskarith.errors import OutputError
from taskarith.training.finetune import finetune
from taskarith.training.resume import working_folder
from taskarith.vectors.low_rank import extract_low_rank


def full():
    return open("/dev/full", "w")  # noqa: PTH123


def unread():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


PRINTS = {
    "line": lambda console: console.line("x"),
    "table": lambda console: console.table("t", ["a"], [["b"]]),
    "result": lambda console: console.result({"a": 1}),
}


@pytest.mark.parametrize("what", PRINTS)
@pytest.mark.parametrize(("stream", "error"), [(full, OutputError), (unread, SystemExit)])
def test_a_result_that_cannot_be_printed_is_an_error(monkeypatch, what, stream, error):
    broken = stream()
    monkeypatch.setattr(sys, "stdout", broken)
    with pytest.raises(error, match=r"cannot print the result: No space|1"):
        PRINTS[what](Console(as_json=what == "result"))
    sys.stdout.write("more")  # goes nowhere, and the interpreter has nothing to complain about at its end
    sys.stdout.close()
    with suppress(OSError):
        broken.close()


@pytest.mark.parametrize("stream", [full, unread])
def test_words_that_cannot_be_printed_change_nothing(monkeypatch, stream):
    broken = stream()
    monkeypatch.setattr(sys, "stderr", broken)
    Console().note("a remark")
    Console().error(OutputError("what", "hint"))
    sys.stderr.write("more")
    sys.stderr.close()
    with suppress(OSError):
        broken.close()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["apply", "--help"]])
def test_help_that_cannot_be_printed_is_an_error_in_a_line(words):
    with full() as stream:
        done = subprocess.run(
            [sys.executable, "-m", "taskarith", *words], stdout=stream, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: cannot print: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_can_be_read_in_every_encoding(monkeypatch, encoding):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding, errors="backslashreplace"))
    Console(as_json=True).result({"name": "ünï 码"})
    assert json.loads(data.getvalue().decode(encoding)) == {"name": "ünï 码"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_trainings_into_one_output_do_not_share_a_folder(tmp_path, phi, book, overwrite):
    out = tmp_path / "out"
    folder = working_folder(out)
    lock = lock_folder(folder, out)
    try:
        (folder / "run.json").write_text("{}")
        with pytest.raises(OutputError, match="another run is writing"):
            finetune(str(phi), [str(book)], out, max_steps=1, overwrite=overwrite)
        assert {path.name for path in folder.iterdir()} == {"lock", "run.json"}
    finally:
        os.close(lock)
    check_unlocked(folder, out)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("Parent directory out/checkpoint-1 does not exist."),
        OSError(122, "Disk quota exceeded"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_output(tmp_path, phi, book, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", fail)
    with pytest.raises(OutputError, match="cannot write a checkpoint") as caught:
        finetune(str(phi), [str(book)], tmp_path / "out", max_steps=1, save_steps=1, block_size=32)
    assert "--resume" not in caught.value.hint
    assert not working_folder(tmp_path / "out").exists()


@pytest.mark.parametrize("when", ["the move", "the end"])
@pytest.mark.parametrize("plan", ["", "plan"])
def test_ctrl_c_while_an_output_is_put_in_its_place_comes_after_it(tmp_path, monkeypatch, when, plan):
    module, name = (publish, "_move") if when == "the move" else (leftovers, "_empty")
    act = getattr(module, name)

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        act(*arguments)

    monkeypatch.setattr(module, name, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            pytest.raises(KeyboardInterrupt) as caught,
            publish.publish(tmp_path / "out", is_folder=True, plan=plan) as place,
        ):
            (place.path / "file").write_text("new")
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.__notes__ == [f"{tmp_path / 'out'} is complete, and in its place."]
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_a_full_temporary_folder_is_not_taken_for_what_peft_says(tmp_path, monkeypatch, phi, phi_tuned):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))  # where nothing is known of such an adapter
    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with pytest.raises(OutputError, match="temporary files cannot be written"):
        extract_low_rank(str(phi), str(phi_tuned), tmp_path / "out", rank=2)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


# the run itself


@pytest.fixture
def stage(tmp_path, phi, phi_tuned):
    """A command that has been rehearsed: what it gives is there."""
    shutil.copytree(phi, tmp_path / "in")
    made = Stage(tmp_path, Command("apply -o out/edited", output="out/edited"), tmp_path / "aside")
    apply(str(tmp_path / "in"), add=[f"{phi_tuned}@@{phi}"], output_dir=made.target)
    made.given = ({"": "an earlier one"}, contents(made.target))
    return made


def test_what_a_disturbed_run_leaves_is_judged(stage):
    def judge(code, stderr=""):
        return stage.judge(Ended(code, "", stderr, 1.0), overwrite=False)

    assert judge(0) == []
    shard = stage.target / "model.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert [one[:5] for one in judge(0)] == ["LOST:", "LOST:"]
    shard.unlink()
    assert "as its record says" in " ".join(judge(1, "error: x"))
    shutil.rmtree(stage.target)
    assert judge(0) == ["LOST: ends with 0 without the output"]
    assert judge(1, "error: x\nhint: y") == []
    assert judge(1, "error: x\nhint: a library says: I/O error: y") == []
    assert "2 errors" in judge(1, "error: x\nhint: y\nerror: z")[0]
    assert "nothing is kept" in judge(1, "error: x\nit goes on where this one stopped")[0]
    assert "traceback" in judge(1, "Traceback\nValueError: error: ")[0]
    assert "traceback" in judge(1, f"error: unexpected KeyError\nhint:  {FAULT} Please report it.")[0]
    (stage.out / "x.tmp").touch()
    (stage.folder / "in" / "config.json").write_text("{}")
    assert judge(1, "error: x") == ["leaves x.tmp", "LOST: an input changed"]


def test_a_folder_that_a_command_changes_is_judged_file_by_file(tmp_path):
    run = tmp_path / "in" / "run"
    run.mkdir(parents=True)
    for name in ("kept", "removed", "changed"):
        (run / name).write_text("old")
    stage = Stage(tmp_path, Command("clean out/run", output="out/run", start="in/run"), tmp_path / "aside")
    stage.clear()
    before = contents(stage.target)
    (stage.target / "removed").unlink()
    (stage.target / "changed").write_text("new")
    stage.given = (before, contents(stage.target))
    assert stage.judge(Ended(0, "", "", 1.0), overwrite=False) == []
    (stage.target / "removed").write_text("old")
    assert stage.judge(Ended(1, "", "error: x", 1.0), overwrite=True) == []
    assert "0 without the output" in stage.judge(Ended(0, "", "", 1.0), overwrite=False)[0]
    (stage.target / ".taskarith.json").touch()
    assert stage.judge(Ended(-9, "", "", 1.0), False, signal.SIGKILL) == []
    (stage.target / "changed").write_text("neither")
    found = stage.judge(Ended(1, "", "error: x", 1.0), overwrite=False)
    assert found == [f"LOST: neither as before nor as after: {name}" for name in (".taskarith.json", "changed")]


def test_the_kernel_refuses_all_writing(tmp_path):
    file = tmp_path / "file"
    code = (
        "import errno, sys; from benchmarks.robustness.faults.runs import refuse_writes\n"
        f"file = open({str(file)!r}, 'wb', 0); file.write(b'a'); refuse_writes(errno.EDQUOT); print('b')\n"
        "try:\n    file.write(b'c')\nexcept OSError as error:\n    sys.exit(error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, file.read_bytes()) == (errno.EDQUOT, "b\n", b"a"), done.stderr


def test_commands_survive_faults(tmp_path):
    """`make faults` does this with all commands and more often."""
    command = [sys.executable, "-m", "benchmarks.robustness.faults", "--only", "apply", "--rounds", "1", "--start", "1"]
    kinds = ["interrupt", "kill", "full disk", "quota", "two at once", "broken pipe"]
    done = subprocess.run(
        [*command, "--kinds", *kinds, "--table", str(tmp_path / "t.md")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | seed 42 | 6 | 6 | 0 |" in (tmp_path / "t.md").read_text()
