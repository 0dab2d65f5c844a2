"""What held the text is gone, nothing else is, and what is not a run's is never touched."""

from __future__ import annotations

import json
import os

import oracle
import pytest
import tiny
from forgetting import TEXT, make_run

import taskarith
from taskarith.checkpoints.lock import lock_folder
from taskarith.checkpoints.provenance import record_is_sealed
from taskarith.errors import CheckpointError, OutputError, UsageError
from taskarith.unlearning.clean import clean
from taskarith.unlearning.unlearn import unlearn


@pytest.fixture
def run(tmp_path, phi):
    return make_run(tmp_path, phi)


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_in_the_run_holds_the_text_afterwards_and_the_rest_stays(run):
    before = _files(run)
    assert sum(TEXT.encode() in data for data in before.values()) == 4
    result = clean(run, forget_data=True)
    after = _files(run)
    assert not any(TEXT.encode() in data for data in after.values())
    assert {name.partition("/")[0] for name in before.keys() - after.keys()} == {
        *("forget.safetensors", ".learned-forget.training", "before", "after", "report.html")
    }
    changed = {name for name, data in after.items() if data != before[name]}
    assert changed == {"taskarith.json", "before/taskarith.json", "after/taskarith.json"}
    assert result.nbytes == sum(len(before[name]) for name in before.keys() - after.keys())
    assert f"the text itself: {run.parent / 'forget.txt'}" in result.remaining


def test_records_say_what_was_removed_and_are_sound(run):
    listed = json.loads((run / "before" / "taskarith.json").read_text())["files"]
    clean(run, forget_data=True)
    record = json.loads((run / "before" / "taskarith.json").read_text())
    assert record["removed"] == {"records.jsonl": listed["records.jsonl"]}
    assert {**record["files"], **record["removed"]} == listed
    assert record_is_sealed(run / "before")
    assert taskarith.verify(run / "before").is_sound


def test_once_more_finds_nothing_and_a_torn_one_is_finished(run, monkeypatch):
    import taskarith.unlearning.clean as module

    whole, places = module._remove, []

    def torn(path):
        if len(places) == 2:
            raise KeyboardInterrupt
        places.append(path)
        whole(path)

    monkeypatch.setattr(module, "_remove", torn)
    with pytest.raises(KeyboardInterrupt):
        clean(run, forget_data=True)
    monkeypatch.setattr(module, "_remove", whole)
    assert not {*clean(run, forget_data=True).removed} & {*places}
    assert not any(TEXT.encode() in data for data in _files(run).values())
    assert clean(run, forget_data=True).removed == ()
    assert "records.jsonl" not in json.loads((run / "after" / "taskarith.json").read_text())["files"]


def test_nothing_is_removed_by_accident(run):
    before = _files(run)
    with pytest.raises(UsageError, match="not told what to remove"):
        clean(run)
    result = clean(run, forget_data=True, dry_run=True)
    assert all(path.exists() for path in result.removed)
    assert _files(run) == before


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    for folder in (run / "before", tmp_path, tmp_path / "none"):
        with pytest.raises(OutputError, match="is not the folder of a run of unlearn"):
            clean(folder, forget_data=True)


@pytest.mark.parametrize("how", ["notes in the fine-tune", "another vector", "link", "in use"])
def test_what_somebody_else_put_there_or_works_on_stays(run, tmp_path, how):
    if how == "notes in the fine-tune":
        (run / "learned-forget").mkdir()
        (run / "learned-forget" / "notes.txt").write_text("mine")
    elif how == "another vector":
        (run / "forget.safetensors").write_bytes(b"mine")
    elif how == "link":
        (run / "forget.safetensors").replace(tmp_path / "elsewhere.safetensors")
        (run / "forget.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    else:
        held = lock_folder(run / ".learned-forget.training", run)
    before = _files(run)
    with pytest.raises(OutputError):
        clean(run, forget_data=True)
    assert _files(run) == before
    if how == "in use":
        os.close(held)
        clean(run, forget_data=True)


@pytest.mark.parametrize("broken", ["[]", "{", '{"data": [1]}', '{"files": [1], "data": {"forget": 1}}'])
def test_a_broken_record_is_an_error_before_anything_is_removed_or_changes_nothing(run, broken):
    (run / "before" / "taskarith.json").write_text(broken)
    try:
        clean(run, forget_data=True)
    except CheckpointError:
        assert (run / "forget.safetensors").exists()
    else:
        assert not any(TEXT.encode() in data for data in _files(run).values())


def test_the_record_of_the_run_keeps_what_it_said(run):
    record = json.loads((run / "taskarith.json").read_text())
    clean(run, forget_data=True)
    assert json.loads((run / "taskarith.json").read_text()) | {"digest": 0} == record | {"cleaned": True, "digest": 0}
    assert record_is_sealed(run)


def test_a_cleaned_run_is_not_gone_on_with(run, phi, tmp_path):
    clean(run, forget_data=True)
    (tmp_path / "keep.txt").write_text(tiny.text(40, 3))
    with pytest.raises(OutputError, match="forget data was removed by clean"):
        unlearn(str(phi), str(tmp_path / "forget.txt"), str(tmp_path / "keep.txt"), run)


def test_a_model_in_the_run_is_left_as_it_is(run):
    model = oracle.load(run / "edited")
    clean(run, forget_data=True)
    assert oracle.differing(oracle.load(run / "edited"), model) == []
    assert taskarith.verify(run / "edited").is_sound
