"""Tensors that are tied take one delta."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from adapters import change_config, save_any_adapter
from safetensors.torch import load_file, save_file

from taskarith.edit.apply import apply
from taskarith.errors import VectorError

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


def test_a_tied_head_that_is_stored_takes_the_delta_of_its_embedding(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    adapter = save_any_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    tensors = oracle.load(base)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    result = apply(str(base), add=[str(adapter)], output_dir=tmp_path / "both")
    assert (result.actions["edited"], result.actions["tied"]) == (1, 1)
    both = oracle.load(tmp_path / "both")
    assert torch.equal(both["lm_head.weight"], both["model.embed_tokens.weight"])
    assert torch.equal(both["lm_head.weight"], oracle.load(tmp_path / "out")["model.embed_tokens.weight"])


def test_a_tied_matrix_that_is_saved_on_both_sides_counts_once_if_they_agree(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    sides = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    path = save_any_adapter(base, tmp_path / "adapter", **sides) / "adapter_model.safetensors"
    tensors = load_file(path)
    first, second = (name for name in tensors if "embed_tokens" in name or "lm_head" in name)
    moved = tensors[first] + 1
    save_file(tensors | {first: moved, second: moved.clone()}, path)
    apply(str(base), add=[str(path.parent)], output_dir=tmp_path / "out")
    assert torch.equal(oracle.load(tmp_path / "out")["model.embed_tokens.weight"], moved)
    save_file(tensors | {first: moved, second: moved + 1}, path)
    with pytest.raises(VectorError, match=r"as a module of its own|says different things"):
        apply(str(base), add=[str(path.parent)], output_dir=tmp_path / "again")


def test_an_embedding_without_a_head_is_not_tied(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    adapter = save_any_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    tensors = oracle.load(base)
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors")
    change_config(base, "config.json", tie_word_embeddings=False)
    assert apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out").actions["edited"] == 3
    change_config(base, "config.json", tie_word_embeddings=True)
    with pytest.raises(VectorError, match=r"saves model\.embed_tokens\.weight as a module of its own"):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "tied")
