"""Bytes of tensors: what changes while it is read is an error, and files are closed where there are too many."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
import tiny
from interrupted import rewritten

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader, check_unchanged, file_states
from taskarith.errors import CheckpointError, ReadError


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 1000)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="changed while it was read"):
        reader.fingerprint(checkpoint.tensors["model.embed_tokens.weight"])


def test_an_input_that_was_changed_in_place_is_noticed_although_its_time_was_set_back(tmp_path, made):
    copy = shutil.copytree(made / "tuned", tmp_path / "tuned") / "model.safetensors"
    checkpoint = open_checkpoint(copy.parent)
    states = file_states([copy])
    with TensorReader() as reader:
        entry = next(iter(checkpoint.tensors.values()))
        reader.read(entry, 0, 4)
        rewritten(copy)
        reader.read(entry, 0, 4)  # of the open file; the next line is what looks at it again
    with pytest.raises(CheckpointError, match="changed while it was read"):
        check_unchanged(states)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="changed while it was read"):
        reader.read(entry, 0, 4)  # its header was read before


def test_readers_close_what_nobody_reads_where_the_system_allows_no_more_files(made, monkeypatch):
    checkpoint, opened, limit = open_checkpoint(made / "base"), os.open, [3]

    def limited(*arguments):
        if limit[0] == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        limit[0] -= 1
        return opened(*arguments)

    closed = os.close

    def counted(descriptor):
        limit[0] += 1
        closed(descriptor)

    assert len(checkpoint.shards) > 3
    monkeypatch.setattr(os, "open", limited)
    monkeypatch.setattr(os, "close", counted)
    with TensorReader() as reader:
        for _ in range(2):
            for entry in checkpoint.tensors.values():
                assert len(reader.read(entry, 0, 1)) == 1
    limit[0] = 0
    with TensorReader() as reader, pytest.raises(ReadError, match="Too many open files"):
        reader.read(entry, 0, 1)
