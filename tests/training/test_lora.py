"""Which layers LoRA adapts, and that PEFT restores what was trained."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from finetuning import QUICK, Notes, quick, tokenizer_of, weights
from peft import PeftModel
from transformers import AutoModelForCausalLM

from taskarith.errors import UsageError
from taskarith.models.language import run_on_text
from taskarith.models.load import load_model
from taskarith.training import fit as module
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", tiny.WITH_PICTURES)
def test_lora_adapts_the_language_part(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    notes = Notes()
    finetune(str(base), [text], tmp_path / "all", lora=True, listener=notes, **QUICK)
    finetune(str(base), [text], tmp_path / "q", lora=True, lora_target=["q_proj"], **QUICK)
    layers = {".".join(name.split(".")[2:-2]) for name in weights(tmp_path / "all")}
    assert len(layers) == 14
    assert all(name.startswith("model.language_model.layers.") for name in layers)
    assert {".".join(name.split(".")[2:-2]) for name in weights(tmp_path / "q")} == {
        f"model.language_model.layers.{number}.self_attn.q_proj" for number in (0, 1)
    }
    assert notes.notes[0] == "LoRA adapts the language model only, not model.vision_tower, model.multi_modal_projector"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gpt_neox", []),
        ("qwen3_moe", []),
        ("deepseek_v3", [r"does not reach 6 weights: model\.layers\.0\.mlp\.gate_proj"]),  # for PEFT it is an expert
        (
            "phimoe",
            [r"leaves out 2 layers that compute .*\.1\.mlp\.router", r"does not reach 4 weights: .*gate_up_proj"],
        ),
        ("llama4_text", [r"leaves out 1 layers that compute .*\.router", r"does not reach 2 weights: .*gate_up_proj"]),
        ("mamba", [r"leaves out 2 layers that PEFT refuses: .*out_proj", r"did not change 2 of the .*: .*dt_proj"]),
        (
            "laguna",
            [r"leaves out 3 layers .* not load again: .*shared_experts", r"does not reach 2 weights: .*gate_up"],
        ),
        ("gemma3", [r"language model only, not model\.vision_tower, model\.multi_modal_projector"]),
    ],
)
def test_peft_restores_the_trained_adapter(tmp_path, text, monkeypatch, kind, said):
    """PEFT finds every tensor, and the logits are those that were trained; what is said of the layers is true."""
    base = tiny.save_model(tmp_path / "base", kind)
    notes, trained = Notes(), {}

    def save_adapter(model: PeftModel, *arguments: object) -> None:
        with torch.no_grad():
            trained["logits"] = run_on_text(model.eval(), model.get_base_model().config)
        saved(model, *arguments)

    saved = module.save_adapter
    monkeypatch.setattr(module, "save_adapter", save_adapter)
    finetune(str(base), [text], tmp_path / "out", lora=True, listener=notes, **QUICK)
    others = ("training lora on", "memory, by estimate", "too little to learn a text")  # what is trained, with what
    remarks = [note for note in notes.notes if not any(other in note for other in others)]
    assert [bool(re.search(*pair)) for pair in zip(said, remarks, strict=True)] == [True] * len(said)
    clean = load_model(base, torch.float32)
    plain = run_on_text(clean, clean.config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")  # PEFT applies them
        adapted = PeftModel.from_pretrained(clean, tmp_path / "out")
        found = adapted.load_adapter(tmp_path / "out", "default")
    assert not found.unexpected_keys
    assert not [name for name in found.missing_keys if "lora_" in name]
    with torch.no_grad():
        logits = run_on_text(adapted.eval(), clean.config)
    assert torch.equal(logits, trained["logits"])
    assert not torch.allclose(logits, plain, atol=1e-4)


def test_targets_that_lora_cannot_adapt_are_refused_by_their_reason(tmp_path, text):
    for kind, targets, message in (
        ("mamba", ["out_proj"], r"PEFT cannot adapt out_proj of MambaForCausalLM: .*'out_proj' is incompatible with"),
        ("phimoe", ["router"], "--lora-target router: these layers compute more than a product"),
        ("deepseek_v3", ["gate_proj"], "PEFT cannot adapt gate_proj of .*: Cannot convert .* without also targeting"),
        (
            "llava",
            ["fc1"],
            "--lora-target fc1: the model does not have these linear layers",
        ),  # only the vision tower has
    ):
        base = tmp_path / kind
        tiny.save_model(base, kind)
        with pytest.raises(UsageError, match=message):
            finetune(str(base), [text], tmp_path / "out", lora=True, lora_target=targets, **QUICK)
    finetune(str(tmp_path / "mamba"), [text], tmp_path / "out", lora=True, lora_target=["x_proj", "in_proj"], **QUICK)
    assert {name.split(".")[-3] for name in weights(tmp_path / "out")} == {"x_proj", "in_proj"}


def test_a_model_that_fails_with_lora_layers_is_refused(tmp_path, text, phi, monkeypatch):
    def mlp(self: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(states))) * self.fc1.factor  # which PEFT's layer does not have

    monkeypatch.setattr(torch.nn.Linear, "factor", 1, raising=False)
    monkeypatch.setattr(transformers.models.phi.modeling_phi.PhiMLP, "forward", mlp)
    with pytest.raises(UsageError, match="PhiForCausalLM does not run with PEFT's LoRA layers: AttributeError"):
        finetune(str(phi), [text], tmp_path / "out", lora=True, **QUICK)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT asks transformers by an old name
def test_lora_is_an_adapter_that_peft_loads(tmp_path, text, phi):
    result = finetune(str(phi), [text], tmp_path / "out", lora=True, lora_rank=4, **quick(learning_rate=1e-2))
    assert result.kind == "lora"
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(phi), None)
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert not (tmp_path / "out/config.json").exists()
    layers = {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}
    assert {name.split(".")[-3] for name in weights(tmp_path / "out")} == layers
    assert tokenizer_of(tmp_path / "out").chat_template == tiny.CHAT_TEMPLATE
    base = AutoModelForCausalLM.from_pretrained(phi)
    ids = tokenizer_of(phi)(Path(text).read_text(), return_tensors="pt").input_ids[:, :64]
    with torch.no_grad():
        before = base(ids, labels=ids).loss
        after = PeftModel.from_pretrained(base, tmp_path / "out")(ids, labels=ids).loss
    assert after < before - 0.05


def test_lora_targets_are_chosen(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "gpt2")  # whose layers store their weights transposed
    options = quick(lora=True, lora_target=["c_attn", "mlp.c_proj"], lora_alpha=3.5)
    finetune(str(base), [text], tmp_path / "out", **options)
    names = {".".join(name.split(".")[4:7]) for name in weights(tmp_path / "out")}
    assert names == {f"{n}.{layer}" for n in (0, 1) for layer in ("attn.c_attn", "mlp.c_proj")}
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["fan_in_fan_out"], config["lora_alpha"]) == (True, 3.5)


def test_a_tied_head_is_no_lora_target(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "llama")
    with pytest.raises(UsageError, match="--lora-target lm_head: the model does not have"):
        finetune(str(base), [text], tmp_path / "out", lora=True, lora_target=["lm_head"], **QUICK)
