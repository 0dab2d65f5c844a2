"""Publish or nothing: interruptions, full disks and occupied places leave the old state."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.publish import publish_file, publish_folder
from taskarith.errors import OutputError


def fill(folder, text="new"):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "deep" / "out"
    with publish_folder(target) as partial:
        fill(partial)
        assert not target.exists()
        assert partial.parent == target.parent
    assert (target / "sub/a.txt").read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


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
    (tmp_path / ".out.partial" / "junk").touch()
    with publish_folder(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_empty_folder_is_free_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with publish_folder(tmp_path / "empty") as partial:
        fill(partial)
    (tmp_path / "file").touch()
    for overwrite, words in ((False, "already exists"), (True, "no folder")):
        with pytest.raises(OutputError, match=words), publish_folder(tmp_path / "file", overwrite):
            pass
    with pytest.raises(OutputError, match="is a folder"), publish_file(tmp_path / "empty", overwrite=True):
        pass


def test_a_place_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "sub" / "out", Path("/proc/absent/out")):
        with pytest.raises(OutputError, match="cannot"), publish_folder(place):
            pass
        with pytest.raises(OutputError, match="cannot"), publish_file(place):
            pass


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_folder_that_is_not_ours_to_replace(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="cannot be an output"), publish_folder(Path(name), overwrite=True):
        pass


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


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "taskarith", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


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
        assert "no space left" in done.stderr
        assert "hint:" in done.stderr
    assert list(tmp_path.iterdir()) == []


def start_slow_apply(base, tuned, out):
    """Start an apply that takes 0.3 s a piece, and return when it has begun to calculate."""
    code = (
        "import os, sys, time; from taskarith.edit import run; from taskarith.cli.main import main\n"
        "quick = run.linear_edit\n"
        "def slow(*arguments):\n    os.write(1, b'.'); time.sleep(0.3); return quick(*arguments)\n"
        "run.linear_edit = slow\n"
        f"sys.argv = ['taskarith', 'apply', {str(base)!r}, '--add', {str(tuned)!r}, '-o', {str(out)!r}]\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(1) == "."
    return process


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    process = start_slow_apply(base, base, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in words
    assert "Traceback" not in words
    assert list(tmp_path.iterdir()) == [base]


def test_a_killed_run_leaves_the_old_state_and_the_next_one_succeeds(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    process = start_slow_apply(base, tuned, tmp_path / "out")
    process.kill()
    process.communicate()
    assert not (tmp_path / "out").exists()
    assert run("apply", base, "--add", tuned, "-o", tmp_path / "out").returncode == 0
    assert fingerprint_model(tmp_path / "out") == fingerprint_model(tuned)
    assert not (tmp_path / ".out.partial").exists()
