"""What a loaded model's tensors hold: their dtype, memory that they share, weights that change when it runs."""

from __future__ import annotations

import shutil

import oracle
import pytest
import tiny
import torch
from loaded_models import load, save, state_of, write
from transformers import AutoModelForCausalLM

from benchmarks.architectures.population import build
from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.loaded import check_shared, main_dtype, sharing_memory
from taskarith.errors import MismatchError


def test_a_model_that_changes_its_weights_when_it_runs(tmp_path):
    config = build("rwkv").config
    config.rescale_every = 1
    base = save(AutoModelForCausalLM.from_config(config), tmp_path / "base")
    tuned = save(AutoModelForCausalLM.from_config(config), tmp_path / "tuned")
    apply(str(base), add=[f"{tuned}@@{base}:0.5"], output_dir=tmp_path / "out")
    model, ids = load(AutoModelForCausalLM, base, torch.float32), torch.arange(2, 12)[None]
    right = load(AutoModelForCausalLM, tmp_path / "out", torch.float32)
    with torch.no_grad():
        before = model(ids).logits
        with InMemoryEdit(model, str(base), add=[f"{tuned}@@{base}:0.5"]) as memory:
            memory.set(1.0)
            assert torch.equal(model(ids).logits, right(ids).logits)
            memory.set(0.0)
            assert torch.equal(model(ids).logits, before)
            memory.set(1.0)
            assert not torch.equal(model(ids).logits, before)
        assert oracle.differing(model.state_dict(), load(AutoModelForCausalLM, base, torch.float32).state_dict()) == []
        assert torch.equal(model(ids).logits, before)


def test_an_edit_that_unties_is_refused_in_memory(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")  # tied, here with both tensors in the file
    tensors = oracle.load(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write(base, tensors)
    shutil.copytree(base, tmp_path / "tuned")
    write(tmp_path / "tuned", tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    model = load(AutoModelForCausalLM, base, torch.float32)
    before = state_of(model)
    with InMemoryEdit(model, str(base), add=[f"{tmp_path / 'tuned'}@@{base}"]) as memory:
        with pytest.raises(MismatchError, match="is tied to another weight in memory"):
            memory.set(1.0)
        memory.set(0.0)
    assert oracle.differing(model.state_dict(), before) == []
    both = tensors["model.embed_tokens.weight"] + 1
    write(tmp_path / "tuned", tensors | {"lm_head.weight": both, "model.embed_tokens.weight": both.clone()})
    with InMemoryEdit(model, str(base), add=[f"{tmp_path / 'tuned'}@@{base}"]) as memory:
        memory.set(1.0)
        assert torch.equal(model.lm_head.weight, both)


def test_the_main_dtype_is_that_of_most_elements_whatever_their_names():
    state = {
        "a": torch.zeros(3, dtype=torch.bfloat16),
        "b": torch.zeros(2),
        "c": torch.zeros(2, dtype=torch.float32),
        "ids": torch.zeros(100, dtype=torch.int64),
    }
    assert main_dtype(state) == torch.float32
    assert main_dtype({name: state[name] for name in ("a", "b", "ids")}) == torch.bfloat16


def test_tensors_share_memory_where_they_begin_at_one_place_and_have_one_shape():
    whole = torch.zeros(4, 2)
    state = {"a": whole, "tied": whole, "rows": whole[:2], "own": torch.zeros(4, 2), "empty": torch.zeros(0)}
    state |= {"empty too": state["empty"], "meta": torch.zeros(4, 2, device="meta")}
    assert sharing_memory(state) == {"a", "tied"}


def test_what_was_written_over_is_named():
    head = torch.ones(2)
    check_shared({"head": head}, {"head": torch.ones(2, dtype=torch.float64)})
    with pytest.raises(MismatchError, match="head is tied to another weight in memory"):
        check_shared({"head": head}, {"head": torch.zeros(2)})
