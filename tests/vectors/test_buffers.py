"""Buffers are known by name, shape and values; a learned weight is none."""

from __future__ import annotations

import pytest
from two_sides import BUFFERS, LEARNED, save

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.vectors.buffers import is_buffer


def judge(folder, name, tensor):
    with TensorReader() as reader:
        return is_buffer(open_checkpoint(save(folder, {name: tensor})).tensors[name], reader)


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_is_known(tmp_path, name):
    assert judge(tmp_path / "m", name, BUFFERS[name])


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_weight_is_not_taken_for_a_buffer(tmp_path, name):
    assert not judge(tmp_path / "m", name, LEARNED[name])
