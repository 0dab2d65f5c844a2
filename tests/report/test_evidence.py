"""Digests of files, and what still holds a text."""

from __future__ import annotations

import json

from taskarith.checkpoints.provenance import write_provenance
from taskarith.report.evidence import digests_of, holders_of


def test_digests_are_those_of_records(tmp_path):
    model = tmp_path / "edited"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    write_provenance(model, {"kind": "edit"})
    own = json.loads((model / "taskarith.json").read_text(encoding="utf-8"))["files"]["config.json"]["sha256"]
    record = {
        "files": {
            "results.json": {"bytes": 2, "sha256": "ab"},
            "model.safetensors": {"bytes": 9, "header_sha256": "cd"},
        },
        "models": [{"name": str(model)}, {"name": "org/on-the-hub"}, {"name": 7}],
    }
    assert digests_of(record, "eval") == {
        "eval results.json": "ab",
        "eval model.safetensors (its header)": "cd",
        "edited, as its record says: config.json": own,
    }
    (model / "taskarith.json").write_text("broken", encoding="utf-8")
    assert "eval results.json" in digests_of(record | {"models": {"edited": {"name": str(model)}}}, "eval")


def test_what_holds_the_text_is_named_without_folders():
    record = {
        "data": {"forget": {"spec": "/home/me/secret.txt"}, "other": None},
        "edit": {"add": [], "negate": ["/home/me/v.safetensors@@/home/me/base"]},
    }
    assert holders_of(record, "eval", has_samples=True) == (
        "eval/records.jsonl, and this report: prompts and true continuations, word for word",
        "the text itself, in secret.txt",
        "the vector v.safetensors: with its base it gives the fine-tune back",
    )
    assert holders_of({"edit": None}, "eval", has_samples=False) == ()
