"""Tests of what is uploaded: nothing that tells of the machine, and a record that is right about it."""

from __future__ import annotations

import json

import tiny

from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.apply import apply
from taskarith.hub.push import push
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
    _add_to_record(tmp_path / "tuned", "runs/events.out.tfevents.1.annslaptop.0", b"x")
    push(tmp_path / "tuned", "ann/tuned")
    files = hub.repositories["ann/tuned"].files()
    assert not any("annslaptop" in name or b"annslaptop" in data for name, data in files.items())
    assert verify(resolve_model("ann/tuned").path).is_sound


def _add_to_record(folder, name, data):
    from taskarith.checkpoints.provenance import write_provenance

    (folder / name).write_bytes(data)
    record = json.loads((folder / "taskarith.json").read_text())
    for key in ("files", "command", "versions", "time", "digest"):
        del record[key]
    write_provenance(folder, record)


def test_names_with_markup_stay_text(hub, tmp_path, phi_tuned):
    base = tiny.save_model(tmp_path / "<img src=x onerror=alert(1)>`b`")
    apply(str(base), add=[f"{phi_tuned}@@{base}:0.1"], output_dir=tmp_path / "out")
    push(tmp_path / "out", "ann/out")
    text = hub.repositories["ann/out"].files()["README.md"].decode()
    assert "``<img src=x onerror=alert(1)>`b` ``" in text or "`` <img src=x onerror=alert(1)>`b` ``" in text
