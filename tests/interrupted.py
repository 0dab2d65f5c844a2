"""Verbs that are stopped at a piece of their work, and what they leave."""

from __future__ import annotations

import json
import os

from taskarith.checkpoints.journal import Journal
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.vectors.extract import extract

RESUMED = {
    "apply": lambda made, out: apply(str(made / "base"), add=[str(made / "v.safetensors")], output_dir=out),
    "extract": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out),
    "combine": lambda made, out: combine(f"{made / 'v.safetensors'}:0.5", out, base=str(made / "base")),
}


def output_of(verb, folder):
    return folder / ("out.safetensors" if verb in {"extract", "combine", "exact", "top-k", "bits"} else "out")


def room_of(out):
    return out.with_name(f".{out.name}.partial")


def contents(out):
    """Return the bytes of an output: a file, or all files of a folder."""
    found = {path.name: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])}
    record = json.loads(found.pop("taskarith.json", b"{}"))
    return found | {"record": {key: value for key, value in record.items() if key not in {"time", "digest"}}}


def stop(monkeypatch, made, verb, out, error, after=5):
    """Run a verb that fails after so many tensors."""
    record, left = Journal.record, [after]

    def fail(self, name, entry):
        record(self, name, entry)
        left[0] -= 1
        if left[0] == 0:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", fail)
        try:
            RESUMED[verb](made, out)
        except BaseException as caught:  # of any kind
            return caught
    raise AssertionError("it did not fail")


def rewritten(path, size=-4):
    """Change a file in place and set its time back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(size, os.SEEK_END)
        file.write(b"\x00\x00\x00\x3f")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
