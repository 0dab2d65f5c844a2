"""What a model is in memory, asked of transformers: names, pieces, ties; adapters by them, against PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DeepseekV3Config,
    Gemma3Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PhimoeConfig,
    Qwen2VLConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from taskarith import apply
from taskarith.architecture.layout import Architecture, positions
from taskarith.architecture.lookup import architectures_of
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.errors import MismatchError, VectorError
from taskarith.vectors.low_rank import extract_low_rank

_SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_ROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}
_IMAGES = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
CONFIGURATIONS = {
    "gpt2": GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    "mixtral": MixtralConfig(**_SMALL, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": PhimoeConfig(**_SMALL, num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": GptOssConfig(**_SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    "deepseek_v3": DeepseekV3Config(
        **_SMALL,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        n_shared_experts=1,
    ),
    "qwen2_vl": Qwen2VLConfig(
        text_config={**_SMALL, "rope_scaling": _ROPE},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
        **_IMAGES,
    ),
    "gemma3": Gemma3Config(
        text_config={**_SMALL, "head_dim": 8},
        vision_config={**_VISION, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    ),
}


def auto_class(kind: str):
    return AutoModelForImageTextToText if kind == "qwen2_vl" else AutoModelForCausalLM


def save(kind: str, folder: Path):
    """Write a model of random float32 weights and return it."""
    torch.manual_seed(0)
    model = auto_class(kind).from_config(CONFIGURATIONS[kind]).float()
    model.save_pretrained(folder)
    return auto_class(kind).from_pretrained(folder, dtype=torch.float32)


def architecture(folder: Path) -> Architecture:
    return next(architectures_of(open_checkpoint(folder)))


def assembled(tensor: torch.Tensor, pieces, state) -> torch.Tensor:
    """Build a stored tensor from the parameters that its pieces name."""
    found = torch.empty_like(tensor)
    for piece in pieces:
        part = state[piece.parameter]
        part = part if piece.expert is None else part[piece.expert]
        if piece.rows is not None:
            part = part[torch.tensor(list(positions(piece.rows)))]
        if piece.columns is not None:
            part = part[..., torch.tensor(list(positions(piece.columns)))]
        found[..., piece.start : piece.stop, :] = part.mT if piece.is_transposed else part
    return found


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_every_stored_element_is_traced_to_the_parameter_that_transformers_loads_it_into(tmp_path, kind):
    state, found = save(kind, tmp_path / "m").state_dict(), architecture(tmp_path / "m")
    stored = oracle.load(tmp_path / "m")
    assert found.model_class
    assert found.stored.keys() == stored.keys()
    for name, tensor in stored.items():
        parameter = found.parameter_of(name)
        whole = state[parameter] if parameter else assembled(tensor, found.stored[name], state)
        assert torch.equal(whole, tensor), name
    held = {piece.parameter for pieces in found.stored.values() for piece in pieces}
    assert held | {*found.ties} == {*state}
    assert Architecture.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.filterwarnings("ignore")  # what PEFT says while it makes and merges the adapter
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_adapters_are_what_peft_merges(tmp_path, kind):
    model = save(kind, tmp_path / "base")
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    for target in ("all-linear", [head]):
        model = auto_class(kind).from_pretrained(tmp_path / "base", dtype=torch.float32)
        adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=target))
        adapter, out = tmp_path / f"adapter{len(target)}", tmp_path / f"out{len(target)}"
        adapted.save_pretrained(str(adapter), save_embedding_layers=False)
        result = apply(str(tmp_path / "base"), add=[str(adapter)], output_dir=out)
        expected = adapted.merge_and_unload().state_dict()
        found = auto_class(kind).from_pretrained(out, dtype=torch.float32).state_dict()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
        is_tied = kind in {"gpt2", "gemma3"} and target == [head]
        assert any("which are tied" in remark for remark in result.remarks) == is_tied


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_peft_restores_low_rank_folders_but_for_what_they_name(tmp_path, kind, recwarn):
    model, generator = save(kind, tmp_path / "base"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() in (2, 3) and "conv" not in name:
                left = torch.randn(*weight.shape[:-1], 2, generator=generator)
                weight.add_(0.05 * left @ torch.randn(*weight.shape[:-2], 2, weight.shape[-1], generator=generator))
            else:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(tmp_path / "tuned")
    expected = model.state_dict()
    result = extract_low_rank(str(tmp_path / "base"), str(tmp_path / "tuned"), tmp_path / "folder", rank=4)
    base = auto_class(kind).from_pretrained(tmp_path / "base", dtype=torch.float32)
    found = PeftModel.from_pretrained(base, str(tmp_path / "folder")).merge_and_unload().state_dict()
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    named = {architecture(tmp_path / "base").parameter_of(name) for name in result.rest}
    lost = {name for name, tensor in expected.items() if not torch.allclose(found[name], tensor, atol=2e-4)}
    assert lost == named
    apply(str(tmp_path / "base"), add=[str(tmp_path / "folder")], output_dir=tmp_path / "out")
    back = oracle.load(tmp_path / "out")
    for name, tensor in oracle.load(tmp_path / "tuned").items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**_SMALL)).float().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapt(base: Path, folder: Path, **options) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 2, "init_lora_weights": False, "target_modules": ["q_proj"], **options}
    get_peft_model(model, LoraConfig(**options)).save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("form", ["short", "long"])
def test_parameters_may_be_named_by_the_end_of_their_names(tmp_path, form):
    save("mixtral", tmp_path / "base")
    stem = "" if form == "short" else "mlp.experts."
    names = [f"{stem}gate_up_proj", f"{stem}down_proj"]
    adapter = adapt(tmp_path / "base", tmp_path / "adapter", target_parameters=names)
    apply(str(tmp_path / "base"), add=[str(adapter)], output_dir=tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_square_layers_are_turned_as_their_class_says(tmp_path):
    save("gpt2", tmp_path / "base")
    adapter = adapt(tmp_path / "base", tmp_path / "adapter", target_modules=["attn.c_proj"], fan_in_fan_out=True)
    apply(str(tmp_path / "base"), add=[str(adapter)], output_dir=tmp_path / "right")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"fan_in_fan_out": False}
    (adapter / "adapter_config.json").write_text(json.dumps(config))  # as PEFT leaves it after a Linear layer
    apply(str(tmp_path / "base"), add=[str(adapter)], output_dir=tmp_path / "out")
    right, found = oracle.load(tmp_path / "right"), oracle.load(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())


def change_names(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(dict(change(name, tensor) for name, tensor in load_file(path).items()), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, tensor: (f"_orig_mod.{name}", tensor), r"prefix _orig_mod\., which torch\.compile leaves"),
        (lambda name, tensor: (f"base_model.model.{name}", tensor), r"begin with base_model\.model\. twice"),
        (lambda name, tensor: (name.removeprefix("base_model.model."), tensor), r"do not begin with base_model\.model"),
        (lambda name, tensor: (name, tensor if "lora_A" in name else torch.empty(0)), "are empty, as DeepSpeed ZeRO-3"),
        (lambda name, tensor: (name.replace("q_proj", "query"), tensor), r"are not in LlamaForCausalLM of"),
    ],
)
def test_names_that_peft_does_not_load_are_refused_with_the_reason(tmp_path, llama, change, words):
    adapter = adapt(llama, tmp_path / "adapter")
    change_names(adapter, change)
    with pytest.raises((VectorError, MismatchError), match=words):
        apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "out")


def test_the_name_of_the_adapter_may_stand_in_names(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "adapter")
    apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "right")
    change_names(adapter, lambda name, tensor: (name.replace(".weight", ".default.weight"), tensor))
    apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "out")
    right, found = oracle.load(tmp_path / "right"), oracle.load(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())


@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]])
def test_rows_of_new_tokens_move_as_they_were_trained(tmp_path, llama, saved):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    model.resize_token_embeddings(130)
    model.save_pretrained(tmp_path / "resized")
    options = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"], modules_to_save=saved)
    adapted = get_peft_model(model, options)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name or (not saved and ("embed_tokens" in name or "lm_head" in name)):
                weight.add_(0.05)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(llama)  # as trainers leave it
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    apply(str(tmp_path / "resized"), add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    before, found = oracle.load(tmp_path / "resized"), oracle.load(tmp_path / "out")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name], before[name] + 0.05, rtol=1e-6, atol=1e-6)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "resized", dtype=torch.float32)
    with torch.no_grad():
        other.get_input_embeddings().weight[0] += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(MismatchError, match=r"the first ones of .* are not the same"):
        apply(str(tmp_path / "other"), add=[str(tmp_path / "adapter")], output_dir=tmp_path / "no")


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])  # tied, untied
def test_new_tokens_that_are_trained_alone_move_as_peft_merges_them(tmp_path, kind, saved):
    base, resized = tiny.save_model(tmp_path / "base", kind), tmp_path / "resized"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(tiny.VOCABULARY + 7)
    model.save_pretrained(resized)
    tokens = {"embed_tokens": [3, tiny.VOCABULARY + 1]}
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=tokens))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "trainable_tokens" in name or "lora_B" in name:
                weight.add_(0.05)
    adapted.peft_config["default"].base_model_name_or_path = str(base)  # as PEFT leaves it: that before the resizing
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=saved)
    apply(str(resized), add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    for name, tensor in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_a_model_that_transformers_cannot_build_is_understood_by_its_names_and_that_is_said(tmp_path, llama):
    adapter = adapt(llama, tmp_path / "adapter")
    apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "right")
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "unheard", "architectures": ["Unheard"]}
    (llama / "config.json").write_text(json.dumps(config))
    result = apply(str(llama), add=[str(adapter)], output_dir=tmp_path / "out")
    assert any("transformers cannot build" in remark for remark in result.remarks)
    right, found = oracle.load(tmp_path / "right"), oracle.load(tmp_path / "out")
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())


def test_an_edit_with_an_adapter_asks_transformers_once(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    first = architecture(llama)
    monkeypatch.setattr("taskarith.architecture.ask.describe_model", None)
    assert architecture(llama) == first


def test_peft_adapter_of_tiny_gpt2_without_prefix(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in oracle.load(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})  # as GPT-2 lies on the hub
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    moved = {name for name, tensor in oracle.load(tmp_path / "out").items() if not torch.equal(tensor, tensors[name])}
    assert moved == {"h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"}


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`"
)  # of PEFT, about the model before it is saved
@pytest.mark.parametrize(
    ("target", "moved", "is_told"),
    [
        ("lm_head", "lm_head.weight", False),
        ("decoder.embed_tokens", "decoder.embed_tokens.weight", True),
        ("encoder.embed_tokens", "decoder.embed_tokens.weight", True),  # which the encoder's is loaded from
    ],
)
def test_what_is_tied_to_something_that_the_files_lack_is_tied_to_what_they_have(tmp_path, target, moved, is_told):
    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(**sizes, tie_word_embeddings=False, decoder_start_token_id=0))
    model.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base/model.safetensors")
    tensors |= {"decoder.embed_tokens.weight": tensors.pop("shared.weight"), "lm_head.weight": torch.randn(99, 32)}
    save_file(tensors, tmp_path / "base/model.safetensors", {"format": "pt"})
    config = LoraConfig(r=2, target_modules=f"^{target}$", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    result = apply(str(tmp_path / "base"), add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    after = load_file(tmp_path / "out/model.safetensors")
    assert {name for name, tensor in after.items() if not tensor.equal(tensors[name])} == {moved}
    assert bool(result.remarks) is is_told
    assert all("lm_head" not in remark for remark in result.remarks)
