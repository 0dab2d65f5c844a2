"""The record of a folder: sealed, read again, and its command as one could type it."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskarith.checkpoints import provenance
from taskarith.checkpoints.provenance import (
    command_line,
    read_provenance,
    record_is_sealed,
    release,
    versions,
    write_provenance,
)
from taskarith.errors import CheckpointError
from taskarith.evaluation.results import _MEASURING


def test_a_command_is_recorded_as_typed_in_its_folder(room, monkeypatch):
    monkeypatch.chdir(room)
    words = [
        "apply",
        room / "base",
        f"--add={room / 'v'}:0.5",
        f"--data=forget={room / 'text.txt'}",
        "-o",
        room / "new",
    ]
    monkeypatch.setattr("sys.argv", ["/usr/bin/taskarith", *map(str, words)])
    assert command_line() == "taskarith apply ./base --add=./v:0.5 --data=forget=./text.txt -o ./new"


@pytest.mark.parametrize(
    ("program", "name"),
    [("/lib/taskarith/__main__.py", "taskarith"), ("/my/tool/__main__.py", "__main__.py"), ("/my/run.py", "run.py")],
)
def test_a_program_is_recorded_by_the_name_that_starts_it(monkeypatch, program, name):
    monkeypatch.setattr("sys.argv", [program, "env"])
    assert command_line() == f"{name} env"


def test_a_command_is_recorded_although_its_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("sys.argv", ["taskarith", "apply", str(tmp_path)])
    assert command_line() == f"taskarith apply {tmp_path}"


def test_a_record_is_read_as_it_was_written_and_its_seal_breaks_with_a_change(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    write_provenance(tmp_path, {"kind": "edit", "base": {"name": str(tmp_path / "base")}})
    record, path = read_provenance(tmp_path), tmp_path / "taskarith.json"
    assert (record["kind"], record["base"]["name"]) == ("edit", str(tmp_path / "base"))
    assert record["files"].keys() == {"a.txt"}
    assert str(tmp_path) not in path.read_text()
    assert record_is_sealed(tmp_path)
    path.write_text(path.read_text().replace("edit", "full"))
    assert not record_is_sealed(tmp_path)
    path.write_text("{}")
    assert record_is_sealed(tmp_path) is None


def test_what_is_not_a_record_is_refused(tmp_path):
    assert read_provenance(tmp_path) is None
    for text, words in (("{", "cannot read"), ("[1]", "does not hold a JSON object")):
        (tmp_path / "taskarith.json").write_text(text)
        with pytest.raises(CheckpointError, match=words):
            read_provenance(tmp_path)


def test_the_release_changes_with_the_parts_that_decide_a_result():
    parts = {*provenance._CALCULATING, *_MEASURING}
    assert parts >= {"arithmetic", "edit", "evaluation", "merging", "sweeps", "training", "vectors"}
    assert all((Path(provenance.__file__).parents[1] / part / "__init__.py").exists() for part in parts)
    assert release() == release() != release("evaluation")
    assert versions()["taskarith"] != "not installed"
