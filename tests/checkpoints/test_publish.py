"""Publish or nothing: interruptions, full disks and occupied places leave the old state."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
from outputs import fill_folder
from publishing import fill, run
from safetensors.torch import load_file

from taskarith.checkpoints import publish
from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.publish import publish_file, publish_folder
from taskarith.errors import OutputError


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "out"
    with publish_folder(target) as partial:
        fill(partial)
        assert not target.exists()
        assert partial.parent.parent == target.parent
    assert (target / "sub/a.txt").read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("place", ["new", "replaced", "current folder", "file"])
def test_what_is_published_is_on_the_disk_before_it_has_its_name_and_then_its_name(tmp_path, monkeypatch, place):
    target, begun = tmp_path / "out", []
    if place == "current folder":  # which stays: what is in the room is moved into it
        target.mkdir()
        monkeypatch.chdir(target)
    elif place == "replaced":
        with publish_folder(target) as partial:
            fill(partial, "old")
    synced, fsync, move = set(), os.fsync, publish._move

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def start(*arguments):
        begun.extend(synced)
        synced.clear()
        move(*arguments)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(publish, "_move", start)
    with publish_file(target) if place == "file" else publish_folder(target, overwrite=True) as partial:
        partial.write_text("new") if place == "file" else fill(partial)
    written = [target] if place == "file" else [target / name for name in ("sub", "sub/a.txt", "taskarith.json")]
    assert {path.stat().st_ino for path in written} <= set(begun)
    assert (target if place == "current folder" else tmp_path).stat().st_ino in synced


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_exception_leaves_the_old_state(tmp_path, error):
    target = tmp_path / "out"
    with publish_folder(target) as partial:
        fill(partial, "old")

    def fail(folder):
        fill(folder)
        raise error

    with pytest.raises(error), publish_folder(target, overwrite=True) as partial:
        fail(partial)
    assert (target / "sub/a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    for name in ("lock", "journal.jsonl"):
        (tmp_path / ".out.partial" / name).touch()
    (tmp_path / ".out.partial" / "output" / "sub").mkdir(parents=True)
    with publish_folder(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no space"), (errno.EROFS, "cannot write")])
def test_a_disk_that_is_full_or_read_only(tmp_path, number, words):
    def fail(path):
        (path / "half" if path.is_dir() else path).touch()
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=words), publish_folder(tmp_path / "out") as partial:
        fail(partial)
    with pytest.raises(OutputError, match=words), publish_file(tmp_path / "v.safetensors") as partial:
        fail(partial)
    assert list(tmp_path.iterdir()) == []


def test_a_file_size_limit_is_reported_and_leaves_nothing(tmp_path, phi, phi_tuned):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    for arguments in (
        ["extract", phi, phi_tuned, "-o", tmp_path / "v.safetensors"],
        ["apply", phi, "--add", phi_tuned, "-o", tmp_path / "out"],
    ):
        done = run(*arguments, preexec_fn=limit)
        assert done.returncode == 1
        assert "a file would be larger than this system allows" in done.stderr
        assert "hint:" in done.stderr
    assert list(tmp_path.iterdir()) == []


def start_slowly(*arguments):
    """Start a command that waits 0.1 s after each piece that it has written, and return when it has written one."""
    code = (
        "import os, signal, sys, time; from taskarith.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "from taskarith.checkpoints.writer import HashingWriter\n"
        "quick = HashingWriter.append\n"
        "def slow(*arguments):\n    quick(*arguments); os.write(1, b'#'); time.sleep(0.1)\n"
        "HashingWriter.append = slow\n"
        f"sys.argv = ['taskarith', *{[str(item) for item in arguments]!r}]\n"
        "main()\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.read(3) == "###"
    return process


TENSORS = 33
"""Of the tiny Phi, each one piece."""


def finished(room):
    return [json.loads(line)["name"] for line in (room / "journal.jsonl").read_text().splitlines()[1:] if line]


@pytest.mark.parametrize(
    ("verb", "ending"),
    [
        ("apply", signal.SIGINT),
        ("apply", signal.SIGKILL),
        ("extract", signal.SIGINT),
        ("extract", signal.SIGTERM),
    ],
)
def test_an_interrupted_run_leaves_no_output_and_the_next_one_goes_on(tmp_path, pair, verb, ending):
    base, tuned = pair
    out = tmp_path / "out.safetensors"
    arguments = ["apply", base, "--add", tuned, "-o", out] if verb == "apply" else ["extract", base, tuned, "-o", out]
    process = start_slowly(*arguments)
    process.send_signal(ending)
    _, words = process.communicate(timeout=60)
    assert "Traceback" not in words
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted" in words
        assert "goes on" in words
    room = tmp_path / ".out.safetensors.partial"
    assert {path.name for path in tmp_path.iterdir()} == {"in", room.name}
    done = finished(room)
    assert len(done) >= 2
    again = start_slowly(*arguments)
    dots, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert 3 + dots.count("#") <= TENSORS - len(done)  # what was finished is not done again
    assert {path.name for path in tmp_path.iterdir()} == {"in", out.name}
    whole = tmp_path / "whole.safetensors"
    arguments[-1] = whole
    assert run(*arguments).returncode == 0
    if verb == "apply":
        assert fingerprint_model(out) == fingerprint_model(whole) == fingerprint_model(tuned)
    else:
        one, other = (load_file(path) for path in (out, whole))
        assert oracle.differing(one, other) == []


def test_what_a_journal_claims_is_not_believed_without_looking(tmp_path, pair):
    base, tuned = pair
    out, room = tmp_path / "out", tmp_path / ".out.partial"
    process = start_slowly("apply", base, "--add", tuned, "-o", out)
    process.kill()
    process.communicate()
    shard = room / "output" / "model.safetensors"
    size = shard.stat().st_size
    with shard.open("r+b") as file:  # as after a power failure: the journal is on disk, the data is not
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    with (room / "journal.jsonl").open("a") as file:
        file.write('{"name": "cut o')
    assert run("apply", base, "--add", tuned, "-o", out).returncode == 0
    assert fingerprint_model(out) == fingerprint_model(tuned)


def test_another_edit_does_not_go_on_with_what_an_interrupted_one_left(tmp_path, pair):
    base, tuned = pair
    process = start_slowly("apply", base, "--add", tuned, "-o", tmp_path / "out")
    process.kill()
    process.communicate()
    assert run("apply", base, "--add", tuned, "--alpha", "0", "-o", tmp_path / "out").returncode == 0
    assert fingerprint_model(tmp_path / "out") == fingerprint_model(base)


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path, pair):
    base, tuned = pair
    process = start_slowly("apply", base, "--add", tuned, "-o", tmp_path / "out")
    weights = tuned / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "changed while it was read" in words
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_an_output_is_replaced_in_one_step_or_brought_back(tmp_path, monkeypatch):
    target = tmp_path / "out"
    for text in ("old", "new"):
        with publish_folder(target, overwrite=True) as partial:
            fill(partial, text)
    assert (target / "sub/a.txt").read_text() == "new"
    monkeypatch.setattr("taskarith.checkpoints.publish._exchange", lambda *_: False)
    with publish_folder(target, overwrite=True) as partial:
        fill(partial, "newer")
    assert (target / "sub/a.txt").read_text() == "newer"
    room = tmp_path / ".out.partial"
    room.mkdir()
    (room / "lock").touch()
    target.rename(room / "old")  # as if the run had been killed between its two renames
    with pytest.raises(OutputError, match="already exists"), publish_folder(target):
        pass
    assert (target / "sub/a.txt").read_text() == "newer"
    assert list(tmp_path.iterdir()) == [target]


def test_kills_at_random_moments_break_nothing(tmp_path):
    """`python tests/kill_often.py FOLDER 200` does this two hundred times."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "kill_often.py", tmp_path / "work", "12"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed, ") >= 2


@pytest.mark.parametrize(
    ("error", "seen"), [(OSError(errno.EIO, "broken"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_an_output_that_cannot_be_put_in_its_place_does_not_take_the_old_one_with_it(
    tmp_path, monkeypatch, error, seen
):
    target = tmp_path / "out"
    with publish_folder(target) as partial:
        fill(partial, "old")
    rename = Path.rename

    def fail(self, other):
        if self.name == "output":
            raise error
        return rename(self, other)

    monkeypatch.setattr("taskarith.checkpoints.publish._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(seen), publish_folder(target, overwrite=True) as partial:
        fill(partial, "new")
    assert (target / "sub/a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002, 0o077])
def test_outputs_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        with publish_folder(tmp_path / "out") as partial:
            fill_folder(partial, "one")
            (partial / "sub" / "a.txt").chmod(0o600)  # as safetensors leaves what it writes
        with publish_file(tmp_path / "file") as partial:
            partial.touch(0o600)
    finally:
        os.umask(before)
    for path in (tmp_path / "out" / "sub" / "a.txt", tmp_path / "out" / "one.txt", tmp_path / "file"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("begin", [publish_folder, publish_file])
def test_what_is_read_is_no_output(tmp_path, begin):
    (tmp_path / "model").mkdir()
    for target in (tmp_path / "model", tmp_path / "model" / "sub", tmp_path):
        with pytest.raises(OutputError, match=r"reads|is read by"), begin(target, inputs=[tmp_path / "model"]):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["model"]
