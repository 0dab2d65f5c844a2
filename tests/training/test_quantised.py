"""A base in 4 or 8 bits under an adapter: what is trained is a vector of the base as it is stored."""

from __future__ import annotations

import importlib.util

import pytest
import tiny
import torch
from finetuning import Notes, quick
from transformers import AutoModelForCausalLM, AutoTokenizer

from taskarith import apply
from taskarith.errors import UsageError
from taskarith.models.load import load_model
from taskarith.training import quantised
from taskarith.training.finetune import finetune
from taskarith.training.settings import TrainingSettings

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'taskarith[quantized]'")
pytestmark = pytest.mark.usefixtures("one_thread")
BITS = ["load_in_4bit", "load_in_8bit"]


def loss(folder, text):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:32]
    ids = torch.tensor([tokens])
    with torch.no_grad():
        model.loss_type = "ForCausalLM"
        return model(input_ids=ids, labels=ids).loss.item()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "moe"])
@pytest.mark.parametrize("bits", BITS)
def test_the_adapter_moves_the_base_as_it_is_stored(tmp_path, kind, bits):
    """Of linear layers and of Conv1D, whose weights lie the other way; experts stay as they are."""
    base, text = str(tiny.save_model(tmp_path / "base", kind)), "the cat sat on the mat. " * 30
    (tmp_path / "text.txt").write_text(text)
    notes, options = Notes(), quick(lora=True, learning_rate=2e-2, max_steps=20, **{bits: True})
    result = finetune(base, [str(tmp_path / "text.txt")], tmp_path / "tuned", listener=notes, **options)
    assert f"{bits[8]} bits" in result.precision
    assert any("as it is stored, not quantised" in note for note in notes.notes)
    apply(base, add=[str(tmp_path / "tuned")], output_dir=tmp_path / "edited")
    before, after = loss(base, text), loss(tmp_path / "edited", text)
    assert before - after > 0.3
    assert abs(result.final_loss - after) < 0.15  # what was trained and what was edited, but for the rounding to bits


@pytest.mark.parametrize("bits", BITS)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, text, phi, bits):
    options = quick(lora=True, max_steps=4, save_steps=2, **{bits: True})
    finetune(str(phi), [text], tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(str(phi), [text], tmp_path / "out", listener=Notes(interrupt_after=3), **options)
    finetune(str(phi), [text], tmp_path / "out", resume=True, **options)
    read = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "out")]
    assert read[0] == read[1]
    with pytest.raises(UsageError, match="--load-in-4bit is given without --lora"):
        finetune(str(phi), [text], tmp_path / "full", **quick(load_in_4bit=True))


def test_what_cannot_be_trained_in_few_bits_is_refused(tmp_path, text, phi, monkeypatch):
    with pytest.raises(UsageError, match="both given"):
        TrainingSettings(lora=True, load_in_4bit=True, load_in_8bit=True)
    options = quick(lora=True, load_in_8bit=True)
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(UsageError, match="FSDP and DeepSpeed would shard"):
            finetune(str(phi), [text], tmp_path / "out", **options)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(UsageError, match="needs bitsandbytes") as caught:
            finetune(str(phi), [text], tmp_path / "out", **options)
        assert "taskarith[quantized]" in caught.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(quantised, "without_weights", lambda _: None)
        with pytest.raises(UsageError, match="more than a product"):
            finetune(str(phi), [text], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_weights_in_4_bits_stay_as_they_are_on_every_processor(phi, monkeypatch):
    """bitsandbytes packs them anew, and rounds their scales, where it finds instructions for bfloat16."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    how = quantised.quantisation(TrainingSettings(lora=True, load_in_4bit=True), torch.float32)
    model = load_model(phi, torch.float32, quantisation=how, device=torch.device("cpu"))
    layers = [layer for layer in model.modules() if quantised.is_quantised(layer)]
    with torch.inference_mode():
        model(input_ids=torch.arange(8)[None])
    assert layers
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
