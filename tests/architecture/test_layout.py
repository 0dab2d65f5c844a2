"""What a model is in memory, asked of transformers: names, pieces, ties; adapters by them, against PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from architectures import CONFIGURATIONS, adapt, auto_class, save
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith import apply
from taskarith.errors import MismatchError, VectorError


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


def test_peft_adapter_of_tiny_gpt2_without_prefix(tmp_path):
    base = tiny.save_model(tmp_path / "base", "gpt2")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in oracle.load(base).items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})  # as GPT-2 lies on the hub
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    moved = {name for name, tensor in oracle.load(tmp_path / "out").items() if not torch.equal(tensor, tensors[name])}
    assert moved == {"h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"}
