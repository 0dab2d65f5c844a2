"""What others build on is on the disk first, and a file that is replaced is never there in part."""

from __future__ import annotations

import errno
import os

import pytest

from taskarith.checkpoints.durable import replace_file, sync_tree


@pytest.fixture
def synced(monkeypatch):
    found, fsync = [], os.fsync

    def note(descriptor):
        found.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_an_earlier_one_and_its_name_after(tmp_path, synced):
    path = tmp_path / "record.json"
    for data in (b"old", b"new"):
        synced.clear()
        replace_file(path, data)
        assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_does_not_take_a_file_leaves_the_earlier_one_alone(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_put_on_disk_from_within(tmp_path, synced):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "b" / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "b" / "pipe")
    sync_tree(tmp_path / "a")
    assert synced == [(tmp_path / name).stat().st_ino for name in ("a/b/file", "a/b", "a")]
    synced.clear()
    sync_tree(tmp_path / "a" / "b" / "file")
    assert synced == [(tmp_path / "a" / "b" / "file").stat().st_ino]
