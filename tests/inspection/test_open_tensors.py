"""Tensors on disk, to look at them: their sizes, and ways through all of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from inspecting import write

import taskarith
from taskarith.errors import CheckpointError
from taskarith.inspection.open_tensors import map_in_threads, open_contents, plain


def test_squares_neither_overflow_nor_vanish(tmp_path):
    values = {"big": [3e200, -4e200], "small": [3e-200, 4e-200], "mixed": [1e-300, 1.0]}
    path = write(tmp_path / "a.safetensors", **{k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})
    norms = {tensor.name: tensor.norm for tensor in taskarith.inspect(path).tensors}
    assert norms == {name: pytest.approx(math.hypot(*value), rel=1e-15) for name, value in values.items()}


def test_a_signalling_nan_is_counted_and_warns_nobody(tmp_path):
    path = write(
        tmp_path / "a.safetensors", a=torch.tensor([0x7F800001, 0x3F800000], dtype=torch.int32).view(torch.float32)
    )
    assert taskarith.inspect(path).tensors[0].nonfinite == 1


def test_all_tasks_are_done_and_their_results_in_order():
    told = []
    listener = SimpleNamespace(progress=lambda *what: told.append(what))
    assert map_in_threads([3, 1, 2], lambda task: task * 10, lambda task: task, listener, "reading") == [30, 10, 20]
    assert told[-1] == ("reading", 6, 6)
    with pytest.raises(ZeroDivisionError):
        map_in_threads([1, 0], lambda task: 1 / task, int, listener, "reading")


def test_plain_values_are_json_everywhere():
    value = {1: (math.nan, math.inf, 0.5), "a\ud800": ["\udfff", None, True]}
    assert plain(value) == {"1": [None, None, 0.5], "a?": ["?", None, True]}


def test_what_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(CheckpointError, match=r"there is no file runs/v\.safetensors"):
        open_contents("runs/v.safetensors")
