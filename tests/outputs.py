"""Inputs of verbs that write outputs, and folders to publish."""

from __future__ import annotations

from taskarith.checkpoints.provenance import write_provenance


def data(place):
    return {name: str(place / name / "records.jsonl") for name in ("forget", "retain")}


def vector(place):
    return str(place / "v.safetensors")


def fill_folder(folder, text):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)
    (folder / f"{text}.txt").write_text(text)
    write_provenance(folder, {"kind": "evaluation"})


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
