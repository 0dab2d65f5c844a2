"""Locks end with the process that holds them, and Ctrl-C waits for what would be torn by it."""

from __future__ import annotations

import errno
import os
import signal

import pytest
from publishing import fill, run

from taskarith.checkpoints.lock import check_unlocked, lock_folder, uninterrupted, unlock_folder
from taskarith.checkpoints.publish import publish_folder
from taskarith.errors import OutputError


def test_a_second_run_into_one_output_is_refused(tmp_path, pair):
    base, tuned = pair
    with publish_folder(tmp_path / "out") as first:
        fill(first)
        second = run("apply", base, "--add", tuned, "-o", tmp_path / "out")
    assert second.returncode == 1
    assert "another run is writing" in second.stderr
    assert (tmp_path / "out" / "sub" / "a.txt").read_text() == "new"


def test_a_lock_ends_with_its_descriptor(tmp_path):
    descriptor = lock_folder(tmp_path / "room", tmp_path / "out")
    for attempt in (lock_folder, check_unlocked):
        with pytest.raises(OutputError, match="another run is writing"):
            attempt(tmp_path / "room", tmp_path / "out")
    os.close(descriptor)
    check_unlocked(tmp_path / "room", tmp_path / "out")
    check_unlocked(tmp_path / "absent", tmp_path / "out")


def test_a_folder_in_which_nothing_else_lies_goes_with_its_lock(tmp_path):
    room = tmp_path / "room"
    for kept in (False, True):
        descriptor = lock_folder(room, tmp_path / "out")
        (room / "journal.jsonl").touch() if kept else None
        unlock_folder(room, descriptor)
        assert sorted(path.name for path in tmp_path.rglob("*")) == (["journal.jsonl", "lock", "room"] if kept else [])
    check_unlocked(room, tmp_path / "out")


def test_no_folder_is_left_where_no_lock_can_be_made(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match="No space left"):
        lock_folder(tmp_path / "room", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_comes_after_what_would_be_torn_by_it():
    before, done = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def write():
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")

    try:
        with pytest.raises(KeyboardInterrupt) as caught, uninterrupted(["it is written"]):
            write()
        assert (done, caught.value.__notes__) == (["all of it"], ["it is written"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, lambda *_: done.append("its own way"))  # of a program that takes Ctrl-C otherwise
        with uninterrupted():
            write()
        assert done[1:] == ["all of it", "its own way"]
    finally:
        signal.signal(signal.SIGINT, before)
