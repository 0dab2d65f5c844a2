"""Why a vector does not fit a model: other names, tensors that it does not know, dtypes that cannot be edited."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract

QUERIES = "model.layers.0.self_attn.q_proj.weight"


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


def test_a_dtype_that_cannot_be_edited_is_named(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    tensors = load_file(base / "model.safetensors")
    for name, dtype in ((QUERIES, torch.float8_e5m2), ("model.norm.weight", torch.float8_e4m3fn)):
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(MismatchError, match=rf"2 tensors .* {QUERIES} \(F8_E5M2\), model\.norm\.weight \(F8_E4M3\)"):
        apply(str(base), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
