"""Every kind of LoRA folder that PEFT writes: its own merge and its own delta weights are the oracle."""

from __future__ import annotations

from pathlib import Path

import oracle
import pytest
import tiny
import torch
from adapters import save_any_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.errors import VectorError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS = {
    "saved": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]}),
    "all biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "lora biases": ("phi", {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
    "lora bias": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "use_rslora": True}),
    "lora bias of conv1d": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "lora_bias": True}),
    "embedding": ("qwen2", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    "tied embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "rank_pattern": {"embed_tokens": 2}}),
    "tied head": ("llama", {"target_modules": ["lm_head"]}),
    "tied, gpt2": ("gpt2", {"target_modules": ["wte", "c_attn"]}),
    "tokens": ("qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [7, 1, 383]}}),
    "tied tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 1]}),
    "dora": ("phi", {"target_modules": ["q_proj", "fc1"], "use_dora": True}),
    "dora of conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "dora of embedding": ("qwen2", {"target_modules": ["embed_tokens", "up_proj"], "use_dora": True}),
    "experts": ("moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
    "experts, one": ("moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS[1:], "use_rslora": True}),
    "experts, patterns": (
        "moe",
        {"target_modules": [], "target_parameters": EXPERTS, "rank_pattern": {"gate_up_proj": 3}, "lora_alpha": 5},
    ),
}


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


@pytest.mark.parametrize("case", KINDS)
def test_apply_equals_merge_and_unload(tmp_path, case):
    kind, options = KINDS[case]
    base = tiny.save_model(tmp_path / "base", kind)
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    apply(add=[str(adapter)], output_dir=tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    expected = merged(base, adapter)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=1e-6, atol=1e-6)
        assert torch.equal(loaded[name], before[name]) == torch.equal(tensor, before[name]), name
    moved = [name for name in expected if not torch.equal(expected[name], before[name])]
    assert len(moved) >= 2
    assert verify(tmp_path / "out").is_sound
    assert verify(tmp_path / "out").unsampled == ""


@pytest.mark.parametrize("case", KINDS)
def test_taking_an_adapter_away_again_and_extracting_it(tmp_path, case):
    kind, options = KINDS[case]
    base = tiny.save_model(tmp_path / "base", kind)
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    extract(None, str(adapter), tmp_path / "v.safetensors", dtype="float64")
    apply(str(base), negate=[f"{adapter}:0.7"], output_dir=tmp_path / "factored", dtype="float64")
    apply(str(base), negate=[f"{tmp_path}/v.safetensors:0.7"], output_dir=tmp_path / "dense", dtype="float64")
    assert oracle.differing(oracle.load(tmp_path / "factored"), oracle.load(tmp_path / "dense")) == []
    before, after, deltas = oracle.load(base), oracle.load(tmp_path / "factored"), load_file(tmp_path / "v.safetensors")
    for name in before:
        expected = before[name].double() - 0.7 * deltas[name] if name in deltas else before[name].double()
        torch.testing.assert_close(after[name], expected, rtol=1e-14, atol=1e-16)


SUMS = {
    "llama": [
        ("--add", 0.3, {"r": 4, "target_modules": ["q_proj", "down_proj"]}),
        ("--negate", 1.5, {"r": 8, "target_modules": ["q_proj", "embed_tokens"], "use_rslora": True}),
        ("--add", 0.9, {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "lm_head"]}),
        ("--negate", 0.2, {"r": 2, "target_modules": ["down_proj"], "alpha_pattern": {r"1\.mlp\.down_proj": 3}}),
    ],
    "moe": [
        ("--add", 1.1, {"r": 2, "target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        ("--negate", 0.6, {"r": 5, "target_modules": ["v_proj"], "target_parameters": EXPERTS, "use_rslora": True}),
    ],
}


@pytest.mark.parametrize("kind", SUMS)
def test_signed_sums_are_those_of_pefts_own_delta_weights(tmp_path, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    model = AutoModelForCausalLM.from_pretrained(base)
    sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in model.state_dict().items()}
    operands: dict[str, list[str]] = {"--add": [], "--negate": []}
    for index, (sign, coefficient, options) in enumerate(SUMS[kind]):
        adapter = save_any_adapter(base, tmp_path / f"a{index}", index, **options)
        operands[sign].append(f"{adapter}:{coefficient}")
        wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).double()
        for name, module in wrapped.base_model.model.named_modules():
            if hasattr(module, "get_delta_weight"):
                stem = name.replace(".base_layer", "")
                weight = f"{stem}.{getattr(module, 'parameter_name', 'weight')}"
                sums[weight] += (1 if sign == "--add" else -1) * coefficient * module.get_delta_weight("default")
    if kind == "llama":  # tied: one weight has both deltas
        sums["model.embed_tokens.weight"] += sums.pop("lm_head.weight")
    apply(str(base), add=operands["--add"], negate=operands["--negate"], output_dir=tmp_path / "out", dtype="float64")
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64).state_dict()
    for name, total in sums.items():
        found = edited[name] - model.state_dict()[name].double()
        error = (found - total).norm() / total.norm() if total.any() else found.norm()
        assert error < 1e-6, name


@pytest.mark.parametrize("is_turned", [False, True])
def test_experts_that_are_stored_in_one_tensor(tmp_path, is_turned):
    base = tiny.save_model(tmp_path / "base", "moe")
    state = AutoModelForCausalLM.from_pretrained(base).state_dict()
    adapter = save_any_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=EXPERTS)
    expected = merged(base, adapter)
    for name in [name for name in state if ".experts." in name]:  # as llama4 or gpt-oss lie on the hub
        for tensors in (state, expected):
            whole = tensors[name][:, :-1] if "gate_up" in name else tensors[name]  # a square one has no orientation
            tensors[name] = whole.transpose(1, 2).contiguous() if is_turned else whole.contiguous()
    save_file(state, base / "model.safetensors")
    weights = adapter / "adapter_model.safetensors"
    factors = load_file(weights)
    with pytest.raises(
        VectorError, match=r"experts in .* cannot be told to belong to its .*\(down_proj, gate_up_proj\)"
    ):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "no")
    for name, tensor in factors.items():
        if name.endswith("experts.base_layer.lora_B.weight"):
            factors[name] = tensor[:-1].contiguous()
    save_file(factors, weights)
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    edited = oracle.load(tmp_path / "out")
    assert sum(not torch.equal(edited[name], state[name]) for name in state) == 6
    for name, tensor in expected.items():
        torch.testing.assert_close(edited[name], tensor, rtol=1e-6, atol=1e-6)
    assert verify(tmp_path / "out").is_sound
