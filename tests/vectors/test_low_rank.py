"""Low-rank extraction: the best energy there is, and a folder that PEFT loads with nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from finetuning import DEVICES
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError, TaskarithError, UsageError
from taskarith.vectors.low_rank import extract_low_rank


def low_rank_tune(base: Path, folder: Path, rank: int = 2, leave: str = "nothing") -> Path:
    """Write a fine-tune whose layers moved by matrices of low rank, and everything else by noise."""
    tiny.save_model(folder, nudge_of=base, scale=0)
    tensors = oracle.load(base)
    torch.manual_seed(7)
    for name, tensor in tensors.items():
        if leave in name:
            continue
        if tensor.ndim == 2 and min(tensor.shape) > 4 * rank:
            delta = torch.randn(tensor.shape[0], rank) @ torch.randn(rank, tensor.shape[1]) * 0.02
        else:
            delta = torch.randn_like(tensor) * 0.05
        tensors[name] = tensor + delta
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["phi", "llama", "qwen2", "gpt2"])
def test_peft_and_apply_give_back_the_fine_tune(tmp_path, kind, device):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = low_rank_tune(base, tmp_path / "tuned")
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4, device=device)
    assert set(result.ranks.values()) == {2}  # the other two are zero but for rounding
    assert min(result.energies.values()) > 1 - 1e-9
    assert result.rest == ()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected = AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    applied = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    ids = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(
        adapted(ids).logits, AutoModelForCausalLM.from_pretrained(tuned)(ids).logits, rtol=1e-4, atol=1e-4
    )
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(applied[name], tensor, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)


def test_experts_get_factors_as_parameters(tmp_path):
    base = tiny.save_model(tmp_path / "base", "moe")
    tuned = low_rank_tune(base, tmp_path / "tuned")
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4, dtype="float64")
    assert result.rest == ()
    assert {name for name in result.ranks if "experts" in name} == {
        f"model.layers.{layer}.mlp.experts.{name}" for layer in (0, 1) for name in ("gate_up_proj", "down_proj")
    }
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected, found = oracle.load(tuned), oracle.load(tmp_path / "out")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged, state = model.merge_and_unload().state_dict(), AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 4, "output": "v.safetensors"}, "is a folder, and"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "at most 1"),
        ({"rank": 1, "energy": 0.5}, "one of --rank and --energy"),
        ({"rank": 1, "dtype": "int8"}, "unknown dtype"),
    ],
)
def test_wrong_calls(tmp_path, options, words):
    output = tmp_path / options.pop("output", "adapter")
    with pytest.raises(UsageError, match=words) as caught:
        extract_low_rank("base", "tuned", output, **options)
    assert caught.value.hint


def test_nothing_to_factor(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    with pytest.raises(MismatchError, match="no matrix has a delta"):
        extract_low_rank(str(base), str(base), tmp_path / "adapter", rank=4)
    tuned = low_rank_tune(base, tmp_path / "tuned")
    tensors = oracle.load(tuned)
    tensors["model.layers.0.mlp.fc1.weight"][3, 4] = torch.nan
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TaskarithError, match=r"1 deltas are not finite: model\.layers\.0\.mlp\.fc1"):
        extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=4)
    assert not (tmp_path / "adapter").exists()


def test_files_without_the_prefix_of_the_model_give_names_that_peft_knows(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    tuned = low_rank_tune(base, tmp_path / "tuned")
    for folder in (base, tuned):  # as GPT-2 lies on the hub
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in oracle.load(folder).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    extract_low_rank(str(base), str(tuned), tmp_path / "adapter", energy=0.999)
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight" in names
    assert "base_model.model.transformer.h.0.attn.c_attn.base_layer.bias" in names
    expected = AutoModelForCausalLM.from_pretrained(tuned).state_dict()
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    applied = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(applied[name], tensor, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-5)
