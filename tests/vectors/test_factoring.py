"""Factors of all deltas: which ranks they get, and which tensors get none."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.vectors.low_rank import extract_low_rank


def test_ranks_follow_the_energy_and_alone_what_moved_is_written(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base)
    tensors = load_file(tuned / "model.safetensors") | {
        name: tensor for name, tensor in oracle.load(base).items() if "layers.1" in name or "norm" in name
    }
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", energy=0.4)
    assert len(set(result.ranks.values())) > 1
    assert min(result.energies.values()) >= 0.4
    assert not [name for name in (*result.ranks, *result.whole) if "layers.1" in name or "norm" in name]
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    assert config["r"] == config["lora_alpha"] == max(result.ranks.values())
    assert config["bias"] == "all"
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").merge_and_unload()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out", dtype="float64")
    before, after, found = oracle.load(base), oracle.load(tuned), oracle.load(tmp_path / "out")
    lost = moved = 0.0
    for name, tensor in found.items():
        delta = after[name].double() - before[name].double()
        lost += float(((tensor - before[name].double()) - delta).square().sum())
        moved += float(delta.square().sum())
    assert result.energy == pytest.approx(1 - lost / moved, rel=1e-6)
    again = extract_low_rank(str(base), str(tuned), tmp_path / "again", energy=0.4)
    assert again.ranks == result.ranks
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_what_no_adapter_can_change_is_said(tmp_path):
    """Tensors that the architecture has no layer for, as of experts in a model without."""
    for name, value in (("base", 0.0), ("tuned", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"model.layers.0.mlp.experts.0.w": torch.full((8, 8), value)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(MismatchError, match=r"no adapter can change what moves: model.layers.0.mlp.experts.0.w"):
        extract_low_rank(str(tmp_path / "base"), str(tmp_path / "tuned"), tmp_path / "adapter", rank=2)
