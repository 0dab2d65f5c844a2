"""Copies of tensors are the same values, whatever their dtypes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from taskarith.checkpoints.header import read_header
from taskarith.vectors.copies import has_same_rows, has_same_values


@pytest.fixture
def entries(tmp_path):
    one = torch.arange(6.0).reshape(3, 2)
    last = one.clone()
    last[2, 1] = -5
    others = {"narrow": one.bfloat16(), "last": last, "fewer": one[:2].clone(), "flat": one.flatten().clone()}
    save_file({"one": one, **others, "whole": one.long()}, tmp_path / "m.safetensors")
    return {entry.name: entry for entry in read_header(tmp_path / "m.safetensors").tensors}


def test_values_count_and_shapes_but_not_dtypes(entries):
    same = {name for name in entries if has_same_values(entries["one"], entries[name])}
    assert same == {"one", "narrow"}


def test_of_matrices_of_other_sizes_the_rows_of_both_are_compared(entries):
    same = {name for name in ("fewer", "last", "narrow") if has_same_rows(entries["one"], entries[name])}
    assert same == {"fewer", "narrow"}
    assert has_same_rows(entries["fewer"], entries["last"])
