"""LoRA adapters made by PEFT, and what PEFT's own merging makes of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import oracle
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit

TARGETS = {
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}


def save_adapter(base: Path, folder: Path, seed: int = 0, **options) -> Path:
    """Make an adapter as PEFT does, with factors that are not zero, and save it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)  # PEFT sets it itself for GPT-2 and says so
        adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8} | options))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return the weights after PEFT's merge_and_unload."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)
        return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def wrap(base: Path, seed: int, options: dict) -> PeftModel:
    """Adapt a model, and move all that is trained."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8} | options))
    torch.manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    return adapted


def save_any_adapter(base: Path, folder: Path, seed: int = 0, **options) -> Path:
    """Make an adapter of any kind, all of whose trained parts have moved, and save it."""
    wrap(base, seed, options).save_pretrained(folder)
    return folder


def change_config(folder: Path, file: str = "adapter_config.json", **values) -> None:
    """Change values of a configuration in place."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def check_in_memory(base: Path, adapter: Path, folder: Path) -> None:
    """Check that an adapter edits a loaded model as it edits the files."""
    apply(str(base), negate=[str(adapter)], alpha=0.5, output_dir=folder)
    model = AutoModelForCausalLM.from_pretrained(base)
    with InMemoryEdit(model, str(base), negate=[str(adapter)]) as edit:
        edit.set(0.5)
        expected = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        assert oracle.differing(model.state_dict(), expected) == []
