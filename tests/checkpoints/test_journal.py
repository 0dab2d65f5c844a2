"""The journal of a stopped run is believed where it can be proved."""

from __future__ import annotations

import json
import os

import pytest
from interrupted import RESUMED, contents, output_of, room_of, stop

from taskarith.checkpoints.journal import Journal
from taskarith.errors import OutputError


def each_line(change):
    def do(room, victim):
        path = room / "journal.jsonl"
        first, *lines = path.read_text().splitlines()
        path.write_text("\n".join([first, *(json.dumps(change(json.loads(line))) for line in lines if line)]) + "\n")

    return do


def resigned(change):
    """Write the changed entries as this program would: only their types and values are wrong."""

    def do(room, victim):
        path = room / "journal.jsonl"
        first, *lines = path.read_text().splitlines()
        entries = [change(json.loads(line)) for line in lines if line]
        path.unlink()
        journal = Journal(path, json.loads(first)["plan"])
        for entry in entries:
            entry.pop("check", None)
            journal.record(entry.pop("name"), entry)
        journal.close()

    return do


def replaced(name, how):
    def do(room, victim):
        path = next(room.glob(name))
        path.unlink()
        how(path, victim)

    return do


def pipe(path, victim):
    os.mkfifo(path)


def folder(path, victim):
    path.mkdir()


def appended(data):
    def do(room, victim):
        path = room / "journal.jsonl"
        path.write_bytes(path.read_bytes() + data)

    return do


def linked_folder(room, victim):
    (room / "output").rename(room.parent / "elsewhere")
    (room / "output").symlink_to(room.parent / "elsewhere")


def foreign(room, victim):
    (room / "output" / "sub").mkdir()
    (room / "output" / "sub" / "evil.py").write_text("import os")
    (room / "output" / "tokenizer.model").symlink_to(victim)
    (room / "output" / "taskarith-undo.safetensors").write_bytes(b"half")
    (room / "output" / "config.json").symlink_to(victim)
    (room / "finished.json").unlink()
    (room / "finished.json").symlink_to(victim)
    (room / "journal-1.jsonl").symlink_to(victim)


STRANGE = {
    "finite as text": each_line(lambda entry: entry | {"finite": "yes"}),
    "another base": each_line(lambda entry: entry | {"base": "0" * 32}),
    "no operands": each_line(lambda entry: {key: value for key, value in entry.items() if key != "operands"}),
    "another name": each_line(lambda entry: entry | {"name": "model.norm.weight"}),
    "a list as name": each_line(lambda entry: entry | {"name": [1]}),
    "no objects": each_line(lambda entry: [entry]),
    "types, signed": resigned(lambda entry: entry | {"finite": 1}),
    "operands, signed": resigned(lambda entry: entry | {"operands": None}),
    "numbers, signed": resigned(lambda entry: entry | {"base": 7, "error": -1.0}),
    "unknown names, signed": resigned(lambda entry: entry | {"name": "no.such.tensor"}),
    "no Unicode": appended(b"\xff\xfe" * 1000),
    "deep nesting": appended(b"[" * 100_000),
    "a huge number": appended(b'{"name": ' + b"9" * 9999 + b"}\n"),
    "a linked journal": replaced("journal.jsonl", lambda path, victim: path.symlink_to(victim)),
    "a journal elsewhere": replaced("journal.jsonl", lambda path, victim: path.hardlink_to(victim)),
    "a pipe as journal": replaced("journal.jsonl", pipe),
    "a linked shard": replaced("output/model-00001-*", lambda path, victim: path.symlink_to(victim)),
    "a shard elsewhere": replaced("output/model-00001-*", lambda path, victim: path.hardlink_to(victim)),
    "a pipe as shard": replaced("output/model-00001-*", pipe),
    "a folder as shard": replaced("output/model-00001-*", folder),
    "a linked output": linked_folder,
    "foreign files": foreign,
}


@pytest.mark.parametrize("change", STRANGE)
def test_a_partial_folder_of_a_stranger_decides_nothing(tmp_path, monkeypatch, made, whole, change):
    out, victim = tmp_path / "out", tmp_path / "victim"
    stop(monkeypatch, made, "apply", out, KeyboardInterrupt())
    victim.write_text("precious")
    STRANGE[change](room_of(out), victim)
    RESUMED["apply"](made, out)
    assert contents(out) == whole["apply"]
    assert not any(path.is_symlink() for path in out.iterdir())
    assert victim.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "victim", "elsewhere"}


@pytest.mark.parametrize("verb", ["extract", "combine"])
@pytest.mark.parametrize(
    "changed",
    [{"finite": None}, {"output": 3}, {"squares": "1"}, {"squares": -1.0}, {"moved": -1}, {"inexact": True}],
    ids=str,
)
def test_what_is_noted_of_a_delta_has_the_right_types(tmp_path, monkeypatch, made, whole, verb, changed):
    out = output_of(verb, tmp_path)
    stop(monkeypatch, made, verb, out, KeyboardInterrupt())
    resigned(lambda entry: entry | changed)(room_of(out), None)
    RESUMED[verb](made, out)
    assert contents(out) == whole[verb]


def test_processes_that_do_not_see_one_output_folder_say_so(tmp_path, made, monkeypatch):
    monkeypatch.setattr(Journal, "record", lambda *_: None)
    with pytest.raises(OutputError, match="not reported as written"):
        RESUMED["apply"](made, tmp_path / "out")
