"""What is written is on disk when a file is closed, or the run fails."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from interrupted import RESUMED, output_of, room_of

from taskarith.checkpoints.writer import growing_file, sized_files, write_at
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import OutputError
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank

OTHERS = {
    "undo patch": lambda made, out: apply(
        str(made / "base"), add=[str(made / "v.safetensors")], output_dir=out, keep_undo=True
    ),
    "undo": lambda made, out: undo(made / "edited", out),
    "exact": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, exact=True),
    "top-k": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, top_k=0.1),
    "bits": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, bits=4),
    "rank": lambda made, out: extract_low_rank(str(made / "base"), str(made / "tuned"), out, rank=2),
}


def fail_once(monkeypatch, suffix):
    """Let the disk lose what is written to one file, and report it once, to a descriptor that can write it."""
    told = []

    def losing(sync):
        def do(descriptor):
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if not told and writes and path.endswith(suffix):
                told.append(path)
                raise OSError(errno.EIO, "Input/output error")
            sync(descriptor)

        return do

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, losing(getattr(os, name)))
    return told


@pytest.mark.parametrize(
    ("verb", "suffix"),
    [
        ("apply", "-00001-of-00005.safetensors"),
        ("extract", "output"),
        ("combine", "output"),
        ("undo patch", "-undo.safetensors"),
        ("undo", "-00005-of-00005.safetensors"),
        ("exact", "output"),
        ("top-k", "output"),
        ("bits", "output"),
        ("rank", "adapter_model.safetensors"),
    ],
)
def test_what_the_disk_loses_is_an_error_although_it_is_told_once(tmp_path, monkeypatch, made, verb, suffix):
    out, call = output_of(verb, tmp_path), (RESUMED | OTHERS)[verb]
    with monkeypatch.context() as patch:
        told = fail_once(patch, suffix)
        with pytest.raises(OutputError, match="Input/output error"):
            call(made, out)
    assert told
    assert not out.exists()
    call(made, out)
    assert out.exists()
    assert not room_of(out).exists()


def fill(descriptors, error):
    for descriptor in descriptors:
        write_at(descriptor, b"x" * 100, 0)
    if error:
        raise error


def test_a_file_that_lost_something_is_emptied_and_the_error_of_the_body_is_that_of_the_run(tmp_path, monkeypatch):
    sizes = {tmp_path / name: 100 for name in ("sound", "lost")}
    for body in (None, KeyboardInterrupt):
        fail_once(monkeypatch, "lost")
        with pytest.raises(body or OSError), sized_files(sizes) as files:
            fill(files.values(), body)
        assert [path.read_bytes() for path in sizes] == [b"x" * 100, b""]
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError), growing_file(tmp_path / "there"):
        pass
