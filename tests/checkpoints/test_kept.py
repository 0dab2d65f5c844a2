"""What is never replaced or lost: what was changed since, what is read, and work whose last step fails."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from taskarith.checkpoints import publish
from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.checkpoints.writer import sized_files, write_at
from taskarith.errors import OutputError


def fill(folder, text):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)
    write_provenance(folder, {"kind": "evaluation"})


def folder(target, text="old"):
    with publish_folder(target, overwrite=True) as partial:
        fill(partial, text)
    return target


def rewrite_record(out):
    record = json.loads((out / "taskarith.json").read_text())
    (out / "mine.txt").write_text("precious")
    record["files"]["mine.txt"] = {"bytes": 8, "sha256": hashlib.sha256(b"precious").hexdigest()}
    (out / "taskarith.json").write_text(json.dumps(record))


CHANGES = {
    "taskarith.json": rewrite_record,
    "sub/a.txt": lambda out: (out / "sub" / "a.txt").write_text("own"),
    "sub/a.txt@": lambda out: [
        (out / "sub" / "a.txt").rename(out.parent / "elsewhere"),
        (out / "sub" / "a.txt").symlink_to(out.parent / "elsewhere"),
    ],
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_since_it_was_written_is_kept(tmp_path, what):
    out = folder(tmp_path / "out")
    CHANGES[what](out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=f"is kept: {what}"):
        folder(out, "new")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_large_file_is_compared_if_it_is_newer_than_the_record(tmp_path, monkeypatch):
    out = folder(tmp_path / "out")
    monkeypatch.setattr("taskarith.checkpoints.ownership._SMALL", 0)
    shutil.copytree(out, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "sub" / "a.txt")
    folder(tmp_path / "copy", "new")  # with the same content it is ours
    (out / "sub" / "a.txt").write_text("own")
    with pytest.raises(OutputError, match="changed since"):
        folder(out, "new")


def test_a_copy_and_what_lost_a_file_are_replaced(tmp_path):
    out = folder(tmp_path / "out")
    shutil.copytree(out, tmp_path / "copy")
    (out / "sub" / "a.txt").unlink()
    (out / "sub").rmdir()
    for place in (out, tmp_path / "copy"):
        assert (folder(place, "new") / "sub" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("what", ["partial", "training", "old"])
@pytest.mark.parametrize("inner", ["output", "output/deep/v.txt"])
def test_what_is_read_does_not_lie_where_the_output_is_built(tmp_path, what, inner):
    read = tmp_path / f".out.{what}" / inner
    read.parent.mkdir(parents=True)
    (tmp_path / f".out.{what}" / "lock").touch()
    read.write_text("precious")
    with pytest.raises(OutputError, match=r"lies where the output .* is built"):
        check_target(tmp_path / "out", overwrite=True, is_folder=True, inputs=[read])
    assert read.read_text() == "precious"


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ({"old": [], "new": ["mine.txt"]}, "mine.txt was put there during this run"),
        ({"old": [".out.partial"], "new": []}, "does not list"),
        ({"old": [], "new": [".out.partial"]}, "does not list"),
    ],
)
def test_a_list_of_moves_replaces_nothing_that_it_does_not_move_away(tmp_path, monkeypatch, moves, words):
    out = tmp_path / "out"
    room = out / ".out.partial"
    (room / "output").mkdir(parents=True)
    (room / "lock").touch()
    (room / "output" / "mine.txt").write_text("strange")
    (room / "moves.json").write_text(json.dumps(moves))
    (out / "mine.txt").write_text("precious")
    monkeypatch.chdir(out)
    with pytest.raises(OutputError, match=words), publish_folder(out):
        pass
    assert (out / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize("place", ["new", "current folder"])
def test_an_output_that_cannot_be_moved_is_kept_to_go_on_with(tmp_path, monkeypatch, number, place):
    out, tries = tmp_path / "out", []
    if place == "current folder":
        out.mkdir()
        monkeypatch.chdir(out)
    rename, replace = os.rename, os.replace

    def once(act):
        def do(first, second, **options):
            if Path(first).name in {"output", "new"} and not tries:
                tries.append(first)
                raise OSError(number, os.strerror(number))
            return act(first, second, **options)

        return do

    def build():
        with publish.publish(out, is_folder=True, plan="plan", parts=["a.txt"]) as workplace:
            found = set(workplace.journal.done)
            (workplace.path / "a.txt").write_text("work")
            workplace.journal.record("a", {})
            return found

    monkeypatch.setattr(os, "rename", once(rename))
    monkeypatch.setattr(os, "replace", once(replace))
    with pytest.raises(OutputError, match=r"out: [A-Z]|no space left for .*out") as caught:
        build()
    assert publish.KEPT in caught.value.hint
    assert build() == {"a"}
    assert (out / "a.txt").read_text() == "work"
    assert not list(tmp_path.glob(".*"))


def test_rights_that_cannot_be_changed_are_no_reason_to_fail(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "no rights here")

    monkeypatch.setattr(os, "chmod", refuse)
    with publish_folder(tmp_path / "out") as partial:
        (partial / "a.txt").touch(0o600)
        (partial / "a.txt").write_text("a")
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


def test_a_disk_on_which_no_place_can_be_taken_beforehand(tmp_path, monkeypatch):
    def fail(number):
        def allocate(*_):
            raise OSError(number, os.strerror(number))

        return allocate

    for number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
        monkeypatch.setattr(os, "posix_fallocate", fail(number))
        with sized_files({tmp_path / "a": 10}) as files:
            write_at(files[tmp_path / "a"], b"0123456789", 0)
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    monkeypatch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"), sized_files({tmp_path / "a": 10}):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_that_locks_no_files_is_named(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OutputError, match="does not lock files") as caught, publish_folder(tmp_path / "out"):
        pass
    assert "another disk" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_output_of_another_user_in_a_shared_folder_is_refused_first(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    out = folder(shared / "out")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1234)
    with pytest.raises(OutputError, match="may not be replaced"):
        check_target(out, overwrite=True)


@pytest.mark.parametrize("name", ["a/" * 2500 + "out", "x" * 300, "é" * 128])
def test_a_path_that_is_too_long_is_refused_at_once(tmp_path, name):
    start = time.process_time()
    with pytest.raises(OutputError, match=r"has \d+ bytes, and a (path|name) may have"):
        check_target(Path(name), overwrite=False, inputs=[tmp_path])
    assert time.process_time() - start < 1
