"""Undoing again: a folder that is restored already stays, and whatever else is there is kept."""

from __future__ import annotations

import shutil

import pytest
from damage import files

from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import OutputError


def test_undo_again_leaves_what_is_restored_and_keeps_all_else(edited, tmp_path, monkeypatch):
    monkeypatch.setattr("taskarith.edit.undo_write._LARGE", 2000)  # some are in the patch, others are taken
    tuned = f"{edited / 'tuned'}@@{edited / 'base'}"
    for model, out in ((edited / "base", "once"), (edited / "out", "twice")):
        apply(str(model), add=[tuned], output_dir=tmp_path / out, keep_undo=True)
    back = tmp_path / "back"
    for place, record in ((tmp_path / "once", False), (tmp_path / "twice", True)):
        undo(place, back)
        before = files(back) | {"modified": back.stat().st_mtime_ns}
        with pytest.raises(OutputError, match="already exists"):
            undo(place, back)
        assert "is that already" in undo(place, back, overwrite=True).remarks[-1]
        assert files(back) | {"modified": back.stat().st_mtime_ns} == before
        shutil.copytree(back, tmp_path / "copy")
        for name in (one for one in before if one != "modified" and not record):
            for change in (lambda data: data[:-1] + b"?", lambda data: data + b"?", lambda data: data[:-1]):
                (back / name).write_bytes(change(before[name]))
                kept = files(back)
                with pytest.raises(OutputError, match="is kept"):
                    undo(place, back, overwrite=True)
                assert files(back) == kept
                (back / name).write_bytes(before[name])
        (back / "notes.txt").touch()
        with pytest.raises(OutputError, match=r"is kept: .*notes\.txt" if record else "is kept"):
            undo(place, back, overwrite=True)
        shutil.rmtree(back)
        back.symlink_to(tmp_path / "copy")
        with pytest.raises(OutputError, match="is not a folder"):
            undo(place, back, overwrite=True)
        back.unlink()
        shutil.rmtree(tmp_path / "copy")
