"""Moves into a folder that stays: whenever they are stopped, the next run carries them out to the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from outputs import files, fill_folder
from publishing import fill

from taskarith.checkpoints import rooms
from taskarith.checkpoints.inside import finish_moves, move_into
from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.checkpoints.publish import publish_folder
from taskarith.errors import OutputError


@pytest.fixture
def places(tmp_path):
    """An earlier output that stays, and a finished one in its room."""
    target, room = tmp_path / "out", tmp_path / "out/.out.partial"
    (room / "output").mkdir(parents=True)
    fill(target, "old")
    fill(room / "output", "new")
    return target, room


@pytest.mark.parametrize("name", ["../evil", "", "..", "a/b"])
def test_a_list_of_moves_leads_out_of_no_folder(places, name):
    target, room = places
    (room / "moves.json").write_text(json.dumps({"old": [], "new": [name]}))
    with pytest.raises(OutputError, match="does not list the files of an output"):
        finish_moves(target, room)


def test_what_is_not_ours_is_kept_and_named(places):
    target, room = places
    (target / "diary.txt").touch()
    with pytest.raises(OutputError, match=r"no record says that taskarith wrote, and is kept: diary\.txt"):
        move_into(room / "output", target, room)
    assert (room / "old/diary.txt").exists()


@pytest.fixture(params=["mounted", "current", "parent may not be written"])
def staying(request, tmp_path, monkeypatch):
    """A folder that cannot be exchanged for another one, by name."""
    place = tmp_path / "volume"
    place.mkdir()
    if request.param == "current":
        monkeypatch.chdir(place)
        return Path()
    if request.param == "mounted":
        monkeypatch.setattr(rooms, "is_mounted", lambda path: path == place)
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    return place


def test_a_folder_that_stays_is_filled_in_place(tmp_path, staying):
    inode = staying.stat().st_ino
    for text in ("one", "two"):
        with publish_folder(staying, overwrite=True) as partial:
            fill_folder(partial, text)
            assert partial.is_relative_to(staying.resolve())
    assert staying.stat().st_ino == inode
    assert files(staying) == {"sub/a.txt", "two.txt", PROVENANCE_NAME}
    with pytest.raises(OutputError, match="already exists"), publish_folder(staying):
        pass
    with pytest.raises(FileExistsError), publish_folder(staying, overwrite=True) as partial:
        fill_folder(partial, "three") or fill_folder(partial, "three")
    (staying / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"is kept: notes\.txt"), publish_folder(staying, overwrite=True):
        pass
    assert files(staying) == {"sub/a.txt", "two.txt", "notes.txt", PROVENANCE_NAME}
    assert list(tmp_path.iterdir()) == [tmp_path / "volume"]


def test_moves_that_were_stopped_are_carried_out(staying, monkeypatch):
    with publish_folder(staying) as partial:
        fill_folder(partial, "one")
    rename, left = Path.rename, 0

    def stop(self, target):
        nonlocal left
        if left == 0:
            raise OSError(5, "stopped")
        left -= 1
        return rename(self, target)

    for count in range(1, 7):  # of the list of moves, three out, and three in
        left = count
        monkeypatch.setattr(Path, "rename", stop)
        with pytest.raises(OutputError, match="stopped"), publish_folder(staying, overwrite=True) as partial:
            fill_folder(partial, "two")
        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(OutputError, match="already exists"), publish_folder(staying):
            pass
        assert files(staying) == {"sub/a.txt", "two.txt", PROVENANCE_NAME}
        with publish_folder(staying, overwrite=True) as partial:
            fill_folder(partial, "one")


def test_a_list_of_moves_of_somebody_else_moves_nothing(tmp_path, staying):
    with publish_folder(staying) as partial:
        fill_folder(partial, "one")
    (tmp_path / "thesis.txt").touch()
    (staying / "notes.txt").touch()
    room = rooms.room_of(staying)
    for moves in ('{"old": ["../thesis.txt"], "new": []}', "[" * 9999, '{"old": ["notes.txt"], "new": []}', "{}"):
        room.mkdir(exist_ok=True)
        (room / "lock").touch()
        (room / "moves.json").write_text(moves)
        with pytest.raises(OutputError), publish_folder(staying, overwrite=True):
            pass
    assert (tmp_path / "thesis.txt").exists()
    assert (staying / "notes.txt").exists() or (room / "old" / "notes.txt").exists()
