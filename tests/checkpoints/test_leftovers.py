"""What stopped runs leave: kept where the failure says nothing about the data."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys

import pytest
from interrupted import RESUMED, contents, output_of, room_of, stop
from typer.testing import CliRunner

from taskarith.checkpoints import leftovers, lock, publish
from taskarith.checkpoints.journal import Journal
from taskarith.cli.main import app
from taskarith.errors import CheckpointError, MismatchError, OutputError, ReadError

KEPT = [OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.EMFILE)]
KEPT += [KeyboardInterrupt(), MemoryError(), ReadError("a", "b"), OutputError("a", "b"), SystemExit(1)]


@pytest.mark.parametrize("error", KEPT, ids=repr)
@pytest.mark.parametrize("verb", RESUMED)
def test_work_is_kept_on_failures_that_say_nothing_about_the_data(tmp_path, monkeypatch, made, whole, verb, error):
    out = output_of(verb, tmp_path)
    seen = stop(monkeypatch, made, verb, out, error)
    assert "goes on" in f"{seen} {getattr(seen, '__notes__', '')}"
    lines = (room_of(out) / "journal.jsonl").read_text().splitlines()
    assert len([line for line in lines if line]) >= 6
    done = []
    with monkeypatch.context() as patch:
        record = Journal.record
        patch.setattr(Journal, "record", lambda self, name, entry: done.append(name) or record(self, name, entry))
        RESUMED[verb](made, out)
    assert not {json.loads(line)["name"] for line in lines[1:] if line} & {*done}
    assert contents(out) == whole[verb]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [MismatchError("a", "b"), CheckpointError("a", "b")], ids=repr)
def test_work_is_not_kept_where_the_data_are_wrong(tmp_path, monkeypatch, made, error):
    out = tmp_path / "out"
    seen = stop(monkeypatch, made, "apply", out, error)
    assert seen is error
    assert list(tmp_path.iterdir()) == []
    assert not hasattr(seen, "__notes__")


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        ([], "taskarith.vectors.extraction.subtract", "goes on where this one stopped"),
        (["--exact"], "taskarith.vectors.extraction.write_blocks", "starts over"),
        (["--top-k", "0.1"], "taskarith.vectors.extraction.write_blocks", "starts over"),
        (["--rank", "2"], "taskarith.vectors.factoring.write_adapter", "starts over"),
    ],
)
def test_what_an_interruption_says_is_true_of_the_command(tmp_path, monkeypatch, made, options, place, words):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    out = str(tmp_path / ("out" if "--rank" in options else "v.safetensors"))
    done = CliRunner().invoke(app, ["extract", str(made / "base"), str(made / "tuned"), "-o", out, *options])
    assert done.exit_code == 130
    assert words in " ".join(done.stderr.split())
    assert any(tmp_path.iterdir()) == ("goes on" in words)


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_file_that_also_lies_elsewhere_is_not_gone_on_with(tmp_path, monkeypatch, made, whole, how):
    out, victim = tmp_path / "out.safetensors", tmp_path / "victim"
    stop(monkeypatch, made, "extract", out, KeyboardInterrupt())
    (room_of(out) / "output").rename(victim)
    before = victim.read_bytes()
    getattr(room_of(out) / "output", how)(victim)
    RESUMED["extract"](made, out)
    assert contents(out) == whole["extract"]
    assert victim.read_bytes() == before
    assert not out.is_symlink()


def test_a_second_ctrl_c_does_not_take_what_is_kept(tmp_path, monkeypatch):
    whole = publish.has_work

    def look(room):
        signal.raise_signal(signal.SIGINT)
        return whole(room)

    def work(journal):
        journal.record("a piece", {})
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "has_work", look)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            pytest.raises(KeyboardInterrupt) as caught,
            publish.publish(tmp_path / "out", is_folder=True, plan="plan") as place,
        ):
            work(place.journal)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.__notes__ == [publish.KEPT]
    assert whole(tmp_path / ".out.partial")


def test_ctrl_c_at_any_line_while_a_room_is_made_leaves_none(tmp_path):
    lines = 0
    while _interrupted_at_line(lines + 1, tmp_path / "out"):
        assert list(tmp_path.iterdir()) == []
        lines += 1
    assert lines > 20


def _interrupted_at_line(number, target):
    """Begin an output, with Ctrl-C before a line of what makes and locks its room; tell whether there are so many."""
    count, places = 0, {module.__file__ for module in (leftovers, lock, publish)}

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        if event == "line" and count == number:
            signal.raise_signal(signal.SIGINT)
        return trace

    def begin(frame, event, _):
        return trace if frame.f_code.co_filename in places else None

    before, watching = signal.signal(signal.SIGINT, signal.default_int_handler), sys.gettrace()
    sys.settrace(begin)
    try:
        with publish.publish_folder(target):
            sys.settrace(watching)
            return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(watching)
        signal.signal(signal.SIGINT, before)
