"""Tests of what is uploaded: nothing that tells of the machine, and a record that is right about it."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny

from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, MismatchError, UsageError
from taskarith.hub.push import push
from taskarith.hub.staging import folder_record
from taskarith.inspection.verify import verify
from taskarith.training.finetune import finetune
from taskarith.vectors.locate import locate_vector
from taskarith.vectors.low_rank import extract_low_rank


def test_nothing_published_tells_of_the_home_folder(hub, edited, vector, phi, phi_tuned, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    extract_low_rank(str(phi), str(phi_tuned), tmp_path / "low", rank=2)
    for path in (edited, vector, tmp_path / "low"):
        push(path, f"ann/{path.stem}")
    for there in hub.repositories.values():
        assert not [name for name, data in there.files().items() if str(tmp_path).encode() in data]
    low = hub.repositories["ann/low"].files()
    assert json.loads(low["adapter_config.json"])["base_model_name_or_path"] == "base"
    back = locate_vector("ann/low")
    assert verify(back).is_sound  # the record says what was changed


def test_the_logs_of_a_training_stay_here(hub, phi, book, tmp_path):
    finetune(str(phi), data=[str(book)], output_dir=tmp_path / "tuned", max_steps=1, block_size=32)
    (tmp_path / "tuned" / "runs").mkdir()
    (tmp_path / "tuned" / "runs" / "events.out.tfevents.1.annslaptop.0").write_bytes(b"x")
    seal_again(tmp_path / "tuned")
    push(tmp_path / "tuned", "ann/tuned")
    files = hub.repositories["ann/tuned"].files()
    assert not any("annslaptop" in name or b"annslaptop" in data for name, data in files.items())
    assert verify(resolve_model("ann/tuned").path).is_sound


def seal_again(folder, **changes):
    """Write the record of a folder again, as of what lies there now."""
    record = json.loads((folder / "taskarith.json").read_text()) | changes
    for key in ("files", "command", "versions", "time", "digest"):
        del record[key]
    write_provenance(folder, record)


def test_names_with_markup_stay_text(hub, tmp_path, phi_tuned):
    base = tiny.save_model(tmp_path / "<img src=x onerror=alert(1)>`b`")
    apply(str(base), add=[f"{phi_tuned}@@{base}:0.1"], output_dir=tmp_path / "out")
    push(tmp_path / "out", "ann/out")
    text = hub.repositories["ann/out"].files()["README.md"].decode()
    assert "``<img src=x onerror=alert(1)>`b` ``" in text or "`` <img src=x onerror=alert(1)>`b` ``" in text


def test_a_configuration_that_names_the_home_folder_is_refused(hub, phi, phi_tuned, tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(phi, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"_name_or_path": f"{tmp_path}/models/base"}))
    apply(str(base), add=[f"{phi_tuned}@@{phi}:0.1"], output_dir=tmp_path / "out")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MismatchError, match=r"config.json holds the path of your home folder"):
        push(tmp_path / "out", "ann/out")
    assert not hub.repositories


def test_the_way_back_is_told_before_it_is_public(hub, phi, phi_tuned, tmp_path):
    apply(str(phi), add=[f"{phi_tuned}@@{phi}:0.1"], output_dir=tmp_path / "out", keep_undo=True)
    assert "anybody can undo the edit" in push(tmp_path / "out", "ann/out").remarks[0]


def test_an_output_of_an_earlier_release_gets_a_card(hub, phi, phi_tuned, tmp_path):
    apply(str(phi), add=[f"{phi_tuned}@@{phi}:0.1"], output_dir=tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("---\nlicense: mit\n---\n# The card of the base\n")
    seal_again(tmp_path / "out")
    push(tmp_path / "out", "ann/out")
    text = hub.repositories["ann/out"].files()["README.md"].decode()
    assert "license: mit" in text
    assert "The card of the base\n" not in text
    assert "# Edited model" in text
    assert verify(resolve_model("ann/out").path).is_sound


@pytest.mark.parametrize("broken", [{"base": 1}, {"base": None}, {"retain": 5}, {"arguments": 7}])
def test_a_broken_record_is_refused_in_words(hub, phi, book, tmp_path, broken):
    finetune(str(phi), data=[str(book)], output_dir=tmp_path / "tuned", max_steps=1, block_size=32)
    (tmp_path / "tuned" / "README.md").unlink()
    (tmp_path / "tuned" / "README.md").touch()
    seal_again(tmp_path / "tuned", **broken)
    with pytest.raises(CheckpointError, match="record of"):
        push(tmp_path / "tuned", "ann/tuned")


def test_other_folders_have_nothing_to_publish(tmp_path, phi):
    with pytest.raises(UsageError, match="is not published"):
        folder_record(phi)
    with pytest.raises(UsageError, match=r"without taskarith.json"):
        folder_record(tmp_path)
