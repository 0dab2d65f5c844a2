"""LoRA folders as operands: PEFT's own merge is the oracle, and what is not plain LoRA is refused."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from adapters import TARGETS, check_in_memory, merged, save_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"rank_pattern": {r"0\..*": 2}, "alpha_pattern": {r"1\..*": 5}}],
    ids=["plain", "rslora", "patterns"],
)
def test_apply_equals_merge_and_unload(tmp_path, kind, options):
    base = tiny.save_model(tmp_path / "base", kind)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=TARGETS[kind], **options)
    result = apply(add=[str(adapter)], output_dir=tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    expected = merged(base, adapter)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert result.actions["edited"] == sum(
        name.count("lora_A") for name in load_file(adapter / "adapter_model.safetensors")
    )
    assert loaded.keys() == expected.keys()
    moved = 0
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-6)
        moved += not torch.equal(tensor, before[name])
        assert torch.equal(loaded[name], before[name]) == torch.equal(tensor, before[name]), name
    assert moved >= result.actions["edited"]


def test_the_delta_is_exact_in_float64(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["fc1"])
    factors = load_file(adapter / "adapter_model.safetensors")
    apply(str(base), add=[f"{adapter}:0.3"], output_dir=tmp_path / "out", dtype="float64")
    before, after = oracle.load(base), oracle.load(tmp_path / "out")
    stem = "base_model.model.model.layers.1.mlp.fc1"
    b, a = (factors[f"{stem}.lora_{x}.weight"].double() for x in "BA")
    expected = before["model.layers.1.mlp.fc1.weight"].double() + 0.3 * 2.0 * (b @ a)
    torch.testing.assert_close(after["model.layers.1.mlp.fc1.weight"], expected, rtol=1e-15, atol=1e-16)


def test_extracting_an_adapter_gives_its_merged_deltas(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "fc2"])
    result = extract(None, str(adapter), tmp_path / "v.safetensors", dtype="float64")
    assert result.tensors == 4
    assert result.inexact is None
    apply(str(base), negate=[str(adapter)], output_dir=tmp_path / "factored", dtype="float64")
    applied = apply(str(base), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "dense", dtype="float64")
    assert applied.actions == {"converted": 29, "edited": 4}
    assert oracle.differing(oracle.load(tmp_path / "factored"), oracle.load(tmp_path / "dense")) == []


def test_an_adapter_edits_in_memory_too(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_fc"])
    check_in_memory(base, adapter, tmp_path / "out")


def test_an_adapter_finds_tensors_that_are_stored_without_the_prefix_of_the_model(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_fc"])
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in oracle.load(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})  # as GPT-2 lies on the hub
    result = apply(str(base), add=[str(adapter)], output_dir=tmp_path / "hub")
    assert result.actions == {"copied": 24, "edited": 4}
    edited = {f"transformer.{name}": tensor for name, tensor in oracle.load(tmp_path / "hub").items()}
    assert oracle.differing(edited, oracle.load(tmp_path / "out")) == []
