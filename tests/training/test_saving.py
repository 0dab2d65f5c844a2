"""Fine-tuning of architectures with other names in memory, odd layers, or more parts than a language model."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from finetuning import (  # noqa: F401  (by their names)
    QUICK,
    Notes,
    one_thread_fixture,
    quick,
    text_fixture,
    tokenizer_of,
    weights,
)
from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.errors import CheckpointError, UsageError
from taskarith.evaluation.models import open_model
from taskarith.models.language import has_token_loss, names_outside, run_on_text
from taskarith.models.load import load_model
from taskarith.training import fit as module
from taskarith.training.finetune import finetune
from taskarith.training.saving import find_places

pytestmark = pytest.mark.usefixtures("one_thread")

WITH_PICTURES = ["gemma3", "llava", "paligemma"]
OUTSIDE = ("vision_tower.", "multi_modal_projector.")


# --- language models with other parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_PICTURES)
def test_only_the_language_part_is_trained(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    notes = Notes()
    result = finetune(str(base), [text], tmp_path / "out", listener=notes, **quick(max_steps=8))
    before, after = weights(base), weights(tmp_path / "out")
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.removeprefix("model.").startswith(OUTSIDE)}
    assert "weights outside the language model are not trained: model.vision_tower" in notes.notes[0]
    assert result.final_loss < 5.8  # log(384) is 5.95
    assert _loss(tmp_path / "out", text) < _loss(base, text) - 0.1


@pytest.mark.parametrize("kind", WITH_PICTURES)
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


def _loss(folder: Path, text: str) -> float:
    loaded = open_model(str(folder), torch.device("cpu"), None, Notes())
    ids = loaded.tokenizer(Path(text).read_text(), return_tensors="pt").input_ids[:, :64]
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


@pytest.mark.parametrize("kind", ["phi", *WITH_PICTURES])
def test_no_prediction_depends_on_a_later_token(tmp_path, kind):
    """PaliGemma would see a whole text at once if it were not told that all of it is to be predicted."""
    model = load_model(tiny.save_model(tmp_path / "base", kind), torch.float32)
    ids = torch.arange(100, 108)[None]
    with torch.no_grad():
        for inner in (model, model.base_model):
            first, second = (inner(input_ids=one)[0][:, :-1] for one in (ids, ids + (ids == 107)))
            assert torch.equal(first, second)


def test_models_that_do_not_continue_texts_are_refused(tmp_path, text):
    small = {"vocab_size": tiny.VOCABULARY, "d_model": 32}
    t5 = transformers.T5Config(**small, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0}
    layers = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in _ONE_LAYER.items()}
    whisper = transformers.WhisperConfig(**small, **layers, **ends, num_mel_bins=8, max_target_positions=32)
    bert = transformers.BertConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    for auto, config, message in (
        ("AutoModelForSeq2SeqLM", t5, r"is an encoder-decoder model \(T5ForConditionalGeneration\)"),
        ("AutoModelForSpeechSeq2Seq", whisper, r"is an encoder-decoder model \(WhisperForConditionalGeneration\)"),
        ("AutoModelForMaskedLM", bert, "BertLMHeadModel is not a causal language model: its predictions depend on"),
    ):
        base = tmp_path / config.model_type
        getattr(transformers, auto).from_config(config).save_pretrained(base)
        tiny.tokenizer().save_pretrained(base)
        with pytest.raises(CheckpointError, match=message):
            finetune(str(base), [text], tmp_path / "out", **QUICK)
        with pytest.raises(CheckpointError, match=message):
            assert open_model(str(base), torch.device("cpu"), None, Notes()).model
    assert not (tmp_path / "out").exists()


_ONE_LAYER = {"layers": 1, "attention_heads": 4, "ffn_dim": 64}


def test_a_model_that_needs_a_picture_is_refused(tmp_path, text):
    config = transformers.Blip2Config(
        vision_config=tiny.PICTURES,
        qformer_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48},
        text_config={"model_type": "opt", "vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0},
        image_token_index=5,
    )
    base = tmp_path / "base"
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"does not run on text alone: .*'pixel_values'"):
        finetune(str(base), [text], tmp_path / "out", **QUICK)


def test_the_next_token_is_learned_whatever_loss_a_model_has(tmp_path, text):
    base = tiny.save_model(tmp_path / "base", "bart")
    assert not has_token_loss(load_model(base, torch.float32))
    finetune(str(base), [text], tmp_path / "out", **quick(max_steps=8))
    assert _loss(tmp_path / "out", text) < _loss(base, text) - 0.1


# --- adapters --------------------------------------------------------------------------------------------------------


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
        ("mamba", [r"leaves out 2 layers that PEFT refuses: .*out_proj", r"has not reached 2 of the .*: .*dt_proj"]),
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
    others = ("training lora on", "too little to learn a text")  # what is trained, and how long
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
        ("llava", ["fc1"], "--lora-target fc1: the model has no such linear layers"),  # only the vision tower has
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
    with pytest.raises(UsageError, match="PhiForCausalLM does not run with LoRA layers of PEFT's: AttributeError"):
        finetune(str(phi), [text], tmp_path / "out", lora=True, **QUICK)


# --- names in files --------------------------------------------------------------------------------------------------


def test_a_head_that_is_stored_twice_moves_with_its_embeddings(tmp_path, text):
    """In memory the two are ``lm_head`` and ``model.language_model.embed_tokens``."""
    base = tiny.save_model(tmp_path / "base", "gemma3")
    stored = weights(base)
    stored["language_model.lm_head.weight"] = stored["language_model.model.embed_tokens.weight"].clone()
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    finetune(str(base), [text], tmp_path / "out", **QUICK)
    after = weights(tmp_path / "out")
    assert after.keys() == stored.keys()
    assert torch.equal(after["language_model.lm_head.weight"], after["language_model.model.embed_tokens.weight"])
    moved = {name for name in stored if not torch.equal(after[name], stored[name])}
    assert moved == {name for name in stored if name.startswith("language_model.")}


def test_what_has_no_place_in_the_base_is_said_before_training(tmp_path):
    base = tiny.save_model(tmp_path / "base", "phi")
    model = load_model(base, torch.float32)
    model.model.register_buffer("added", torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"1 tensors of PhiForCausalLM have no place in .*: model\.added"):
        find_places(model, open_checkpoint(base))
    del model.model.added
    narrow = {name: t[:3] if name == "lm_head.bias" else t for name, t in weights(base).items()}
    save_file(narrow, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head.bias is \[3\], and would be \[384\]"):
        find_places(model, open_checkpoint(base))


def test_parts_are_told_apart(tmp_path):
    llava = load_model(tiny.save_model(tmp_path / "llava", "llava"), torch.float32)
    assert isinstance(llava, PreTrainedModel)
    outside = names_outside(llava)
    assert {name.split(".")[1] for name in outside} == {"vision_tower", "multi_modal_projector"}
    phi = load_model(tiny.save_model(tmp_path / "phi"), torch.float32)
    assert names_outside(phi) == []
    assert json.loads((tmp_path / "llava/config.json").read_text())["model_type"] == "llava"


# --- a few weights in float32 among others ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deepseek_v3", "moe"])
def test_weights_that_the_base_stores_in_float32_among_others_keep_it(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    wide = [name for name in weights(base) if re.search(r"gate\.(weight|e_score)|experts\.1\.", name)]
    stored = {name: tensor.float() if name in wide else tensor.bfloat16() for name, tensor in weights(base).items()}
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    finetune(str(base), [text], tmp_path / "out", **quick(max_steps=2, dtype="bfloat16"))
    after = weights(tmp_path / "out")
    assert {name for name, tensor in after.items() if tensor.dtype == torch.float32} == {*wide}
    assert any(not torch.equal(after[name], stored[name]) for name in wide)
