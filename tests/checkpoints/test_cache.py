"""The cache: where it lies, who may write it, and that it is written in one step."""

from __future__ import annotations

import pytest

from taskarith.checkpoints import cache
from taskarith.checkpoints.cache import cache_folders, keep_file, locked_folder, writable_caches


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user with a home and temporary folders of their own."""
    monkeypatch.setattr(cache, "_SHARED", (str(tmp_path / "tmp"),))
    for name in ("TASKARITH_CACHE", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_the_cache_is_where_the_nearest_variable_says(user, monkeypatch):
    assert cache_folders("x")[0] == user / "home/.cache/taskarith/x"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    assert cache_folders("x")[0] == user / "home/.cache/taskarith/x"
    monkeypatch.setenv("XDG_CACHE_HOME", str(user / "xdg"))
    assert cache_folders("x")[0] == user / "xdg/taskarith/x"
    monkeypatch.setenv("TASKARITH_CACHE", str(user / "own"))
    assert cache_folders("x") == [user / "own/x"]


def test_where_the_first_place_cannot_be_written_a_private_temporary_one_is_taken(user, monkeypatch):
    (user / "file").touch()
    monkeypatch.setenv("TASKARITH_CACHE", str(user / "file"))
    (found,) = writable_caches("x")
    assert (found.parent.parent, found.is_dir()) == (user / "tmp", True)
    assert cache_folders("x")[1] == found
    found.parent.chmod(0o777)  # anybody could put code into it
    assert list(writable_caches("x")) == []
    assert cache_folders("x") == [user / "file/x"]


def test_a_file_is_kept_whole_or_not_at_all(user):
    assert keep_file(user / "new/f", b"abc")
    assert [(path.name, path.read_bytes()) for path in (user / "new").iterdir()] == [("f", b"abc")]
    assert not keep_file(user / "new/f/below", b"abc")


def test_whoever_finds_a_folder_locked_is_told_before_waiting(user, monkeypatch):
    asked, lock = [], cache.fcntl.flock

    def busy(descriptor, how):
        if how & cache.fcntl.LOCK_NB:
            raise BlockingIOError(cache.errno.EWOULDBLOCK, "busy")
        lock(descriptor, how)

    with locked_folder(user, lambda: asked.append("free")):
        pass
    monkeypatch.setattr(cache.fcntl, "flock", busy)
    with locked_folder(user, lambda: asked.append("busy")):
        pass
    assert asked == ["busy"]
