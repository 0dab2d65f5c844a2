"""Where an output is built, and what that is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskarith.checkpoints.rooms import room_of, settle, short_name, work_folder
from taskarith.errors import OutputError


def test_work_lies_beside_an_output_or_in_one_that_has_to_stay(tmp_path, monkeypatch):
    assert room_of(tmp_path / "out") == tmp_path / ".out.partial"
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert settle(Path()) == tmp_path / "out"
    assert work_folder(Path(), "training") == tmp_path / "out" / ".out.training"
    with pytest.raises(OutputError, match="cannot be an output"):
        settle(Path("/"))


def test_long_names_are_cut_and_stay_different():
    one, other = (short_name("ä" * 200 + end) for end in "ab")
    assert one != other
    assert max(len(name.encode()) for name in (one, other)) <= 255
    assert short_name("plain") == "plain"
