"""Why a vector does not fit a model."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError


def test_a_vector_of_another_architecture_is_refused(tmp_path, vector):
    for kind, words in (("qwen2", "are not in"), ("gpt2", "are not in")):
        other = tiny.save_model(tmp_path / kind, kind)
        with pytest.raises(MismatchError, match=words):
            apply(str(other), negate=[str(vector)], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_the_vector_does_not_know_is_refused(tmp_path, vector, phi):
    extra = tmp_path / "extra"
    shutil.copytree(phi, extra)
    tensors = load_file(extra / "model.safetensors")
    save_file(tensors | {"new.weight": torch.zeros(3)}, extra / "model.safetensors")
    with pytest.raises(MismatchError, match=r"1 tensors of .*extra are unknown to .*: new\.weight"):
        apply(str(extra), negate=[str(vector)], output_dir=tmp_path / "out")
