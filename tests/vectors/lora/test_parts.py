"""Every kind of LoRA folder that PEFT writes: its own merge and its own delta weights are the oracle."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import MismatchError, VectorError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract

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


@pytest.fixture(autouse=True)
def no_warnings_of_peft():
    with warnings.catch_warnings():
        for words in ("fan_in_fan_out", ".*save_embedding_layers", ".*tie", ".*tied", "\n*Model has", ".*target_param"):
            warnings.filterwarnings("ignore", f"(?s).*{words}", UserWarning)
        warnings.filterwarnings("ignore", "(?s).*lora_B.bias", PeftWarning)  # takes a bias for a broken factor
        warnings.filterwarnings("ignore", "(?s).*rank_pattern keys", RuntimeWarning)  # which it does not ignore
        yield


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


def save_adapter(base: Path, folder: Path, seed: int = 0, **options) -> Path:
    wrap(base, seed, options).save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


@pytest.mark.parametrize("case", KINDS)
def test_apply_equals_merge_and_unload(tmp_path, case):
    kind, options = KINDS[case]
    base = tiny.save_model(tmp_path / "base", kind)
    adapter = save_adapter(base, tmp_path / "adapter", **options)
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
    adapter = save_adapter(base, tmp_path / "adapter", **options)
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
        adapter = save_adapter(base, tmp_path / f"a{index}", index, **options)
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


def test_a_tied_head_that_is_stored_takes_the_delta_of_its_embedding(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    tensors = oracle.load(base)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    result = apply(str(base), add=[str(adapter)], output_dir=tmp_path / "both")
    assert (result.actions["edited"], result.actions["tied"]) == (1, 1)
    both = oracle.load(tmp_path / "both")
    assert torch.equal(both["lm_head.weight"], both["model.embed_tokens.weight"])
    assert torch.equal(both["lm_head.weight"], oracle.load(tmp_path / "out")["model.embed_tokens.weight"])


def test_tied_adapters_are_applied_once(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    targets = ["embed_tokens", "lm_head"]
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=targets, ensure_weight_tying=True)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    embedding = wrapped.get_input_embeddings()
    ids = torch.arange(8)
    apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")
    edited = oracle.load(tmp_path / "out")["model.embed_tokens.weight"]
    torch.testing.assert_close(edited[ids], embedding(ids).detach(), rtol=1e-6, atol=1e-6)  # once, as PEFT trains it


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["embed_tokens", "lm_head"]}, "says different things of model.embed_tokens.weight and"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            r"saves lm_head.weight as a module of its own",
        ),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
            r"saves model\.embed_tokens\.weight as a",
        ),
    ],
)
def test_what_would_untie_a_tied_model_is_refused(tmp_path, options, words):
    base = tiny.save_model(tmp_path / "base", "llama")
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    with pytest.raises(VectorError, match=words):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")


def test_a_tied_matrix_that_is_saved_on_both_sides_counts_once_if_they_agree(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    sides = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    path = save_adapter(base, tmp_path / "adapter", **sides) / "adapter_model.safetensors"
    tensors = load_file(path)
    first, second = (name for name in tensors if "embed_tokens" in name or "lm_head" in name)
    moved = tensors[first] + 1
    save_file(tensors | {first: moved, second: moved.clone()}, path)
    apply(str(base), add=[str(path.parent)], output_dir=tmp_path / "out")
    assert torch.equal(oracle.load(tmp_path / "out")["model.embed_tokens.weight"], moved)
    save_file(tensors | {first: moved, second: moved + 1}, path)
    with pytest.raises(VectorError, match=r"as a module of its own|says different things"):
        apply(str(base), add=[str(path.parent)], output_dir=tmp_path / "again")


def test_an_embedding_without_a_head_is_not_tied(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    tensors = oracle.load(base)
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors")
    change_config(base, "config.json", tie_word_embeddings=False)
    assert apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out").actions["edited"] == 3
    change_config(base, "config.json", tie_word_embeddings=True)
    with pytest.raises(VectorError, match=r"saves model\.embed_tokens\.weight as a module of its own"):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "tied")


@pytest.mark.parametrize("is_turned", [False, True])
def test_experts_that_are_stored_in_one_tensor(tmp_path, is_turned):
    base = tiny.save_model(tmp_path / "base", "moe")
    state = AutoModelForCausalLM.from_pretrained(base).state_dict()
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=EXPERTS)
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


def change_config(folder: Path, file: str = "adapter_config.json", **values) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank_pattern": {"fc3": 4}}, r"pattern 'fc3' in rank_pattern .* fits no module"),
        ({"alpha_pattern": {r"model\.layers\.7\..*": 4}}, r"pattern 'model.* in alpha_pattern .* fits no module"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised with pissa_niter_4, which changes the base"),
        ({"layer_replication": [[0, 2]]}, "layers that are repeated"),
        ({"lora_B_layout": "expert_major"}, "packs the factors of experts otherwise than PEFT does"),
        ({"modules_to_save": ["lm_head"]}, "names 'lm_head' in modules_to_save, but holds no tensor of it"),
        ({"lora_bias": True}, "says lora_bias, but model.layers.0.mlp.fc1 has none"),
        ({"use_dora": True}, "says DoRA, but model.layers.0.mlp.fc1 has no magnitude"),
    ],
)
def test_configurations_that_do_not_fit_the_tensors_are_refused(tmp_path, values, words):
    base = tiny.save_model(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["fc1"])
    change_config(adapter, **values)
    with pytest.raises(VectorError, match=words):
        apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")


def test_tensors_that_do_not_fit_the_base_are_refused(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["q_proj", "embed_tokens"], "lora_bias": False}
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    weights = adapter / "adapter_model.safetensors"
    good = load_file(weights)
    stem = "base_model.model.model."

    def refused(error, words, **put):
        save_file(good | put.get("put", {}), weights)
        with pytest.raises(error, match=words):
            apply(str(base), add=[str(adapter)], output_dir=tmp_path / "out")

    copy = f"{stem}embed_tokens.base_layer.weight"
    refused(MismatchError, r"a copy of model\.embed_tokens\.weight, which is not that", put={copy: good[copy] * 2})
    both = {f"{stem}embed_tokens.weight": good[copy] * 2}
    refused(VectorError, r"says two things of model\.embed_tokens\.weight", put=both)
    bias = {f"{stem}layers.0.self_attn.o_proj.bias": torch.zeros(32)}
    refused(MismatchError, r"are not in .*: model\.layers\.0\.self_attn\.o_proj\.bias", put=bias)
    broken = {f"{stem}embed_tokens.lora_embedding_B": torch.full((32, 4), torch.nan)}
    refused(VectorError, "lora_embedding_B .* not finite", put=broken)
    enlarged = {f"{stem}norm.weight": torch.zeros(33)}
    refused(MismatchError, r"model\.norm\.weight \[33\] against \[32\]", put=enlarged)


def test_saved_tensors_are_compared_with_the_base_that_the_adapter_records(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["q_proj"], "modules_to_save": ["norm"], "trainable_token_indices": [3]}
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    other = tiny.save_model(tmp_path / "other", "qwen2", nudge_of=base, seed=3)
    apply(str(other), add=[str(adapter)], output_dir=tmp_path / "out", dtype="float64")
    before, trained, after = oracle.load(base), load_file(adapter / "adapter_model.safetensors"), oracle.load(other)
    found = oracle.load(tmp_path / "out")
    norm, tokens = "model.norm.weight", "model.embed_tokens.weight"
    expected = after[norm].double() + (trained[f"base_model.model.{norm}"].double() - before[norm].double())
    assert torch.equal(found[norm], expected)
    rows = trained["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"].double()
    assert torch.equal(found[tokens][3], after[tokens][3].double() + (rows[0] - before[tokens][3].double()))
    assert torch.equal(found[tokens][4], after[tokens][4].double())


def test_dora_and_tokens_edit_in_memory_and_by_any_chunk(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["up_proj"], "use_dora": True, "trainable_token_indices": [3, 9]}
    adapter = save_adapter(base, tmp_path / "adapter", **options)
    apply(str(base), negate=[str(adapter)], alpha=0.5, output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    with InMemoryEdit(model, str(base), negate=[str(adapter)]) as edit:
        edit.set(0.5)
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        assert oracle.differing(model.state_dict(), expected) == []
