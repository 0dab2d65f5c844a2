"""Edits in memory: what loading the written edit gives, to the bit, whatever dtypes and names a model has there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import oracle
import pytest
import tiny
import torch
import transformers
from loaded_models import load, save, state_of, write
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification
from transformers.utils import logging

from benchmarks.architectures.population import build, population
from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract

NAMES = [
    "llama",
    "gpt2",
    "gpt_neox",  # one name differs
    "mixtral",  # experts are fused
    "qwen3_moe",
    "deepseek_v3",  # a bias is kept in float32, and experts are fused
    "flint",  # bare parameters are kept in float32
    "xlnet",  # the first parameter of all is
    "gpt_oss",  # norms are, in float16
    "gemma3",  # a language model beside a vision model
]
DTYPES = [torch.bfloat16, torch.float32, torch.float16]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Base and fine-tune of an architecture, stored as transformers stores what it has loaded in bfloat16."""
    done: dict[str, tuple[type, Path]] = {}

    def make(name: str) -> tuple[type, Path]:
        if name not in population():
            pytest.skip(f"transformers {transformers.__version__} does not have {name} yet")
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            with torch.no_grad():
                model = build(name)
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            model.save_pretrained(folder / "whole")
            load(type(model), folder / "whole", torch.bfloat16).save_pretrained(folder / "base")
            shutil.copytree(folder / "base", folder / "tuned")
            write(folder / "tuned", {name: moved(tensor) for name, tensor in oracle.load(folder / "base").items()})
            done[name] = type(model), folder
        return done[name]

    return make


def moved(tensor):
    return tensor + (torch.randn(tensor.shape) * 0.01).to(tensor.dtype) if tensor.is_floating_point() else tensor


def most(state):
    sizes = {dtype: sum(t.numel() for t in state.values() if t.dtype == dtype) for dtype in DTYPES}
    return max(DTYPES, key=sizes.__getitem__)


@pytest.mark.parametrize("name", NAMES)
def test_all_dtypes_of_a_model_are_its_own(name, made, tmp_path):
    kind, folder = made(name)
    base = str(folder / "base")
    edit = {"add": [f"{folder / 'tuned'}@@{base}:0.5"]}
    apply(base, **edit, output_dir=tmp_path / "out")
    apply(base, **edit, output_dir=tmp_path / "wide", dtype="float64")
    wide = load(kind, tmp_path / "wide", torch.float64).state_dict()
    for dtype in DTYPES:
        model, written = load(kind, base, dtype), load(kind, tmp_path / "out", dtype).state_dict()
        before, draws = state_of(model), torch.random.get_rng_state()
        with InMemoryEdit(model, base, **edit) as memory:
            memory.set(-0.3)
            memory.set(1.0)
            found = state_of(model)
        assert oracle.differing(model.state_dict(), before) == []
        assert torch.equal(draws, torch.random.get_rng_state())
        assert most(found) == dtype
        once = {n: torch.from_numpy(oracle.round_once(t.double().numpy(), dtype)).to(dtype) for n, t in wide.items()}
        right = {n: once[n] if written[n].dtype == dtype else written[n] for n in written}
        assert oracle.differing(found, right) == []
        if dtype == torch.bfloat16:  # that of the files
            assert oracle.differing(found, written) == []
    assert oracle.differing(found, before) != []


def low_rank(folder, output, targets):
    model = load(AutoModelForCausalLM, folder / "base", torch.float32)
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, fan_in_fan_out="c_attn" in targets)
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(output)
    return str(output)


@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_neox", "gpt2"])
def test_every_form_of_a_vector(name, made, tmp_path):
    kind, folder = made(name)
    if name == "gpt2":  # as it lies on the hub
        folder = shutil.copytree(folder, tmp_path / "hub")
        for side in ("base", "tuned"):
            tensors = oracle.load(folder / side)
            write(folder / side, {n.removeprefix("transformer."): tensor for n, tensor in tensors.items()})
    base, tuned = str(folder / "base"), str(folder / "tuned")
    extract(base, tuned, tmp_path / "dense.safetensors")
    extract(base, tuned, tmp_path / "exact.safetensors", exact=True)
    targets = {"deepseek_v3": ["o_proj"], "gpt_neox": ["query_key_value"], "gpt2": ["c_attn"]}[name]
    adapter = low_rank(folder, tmp_path / "adapter", targets)
    for number, vector in enumerate(
        [tmp_path / "dense.safetensors", tmp_path / "exact.safetensors", f"{tuned}@@{base}", adapter]
    ):
        apply(base, negate=[str(vector)], alpha=0.7, output_dir=tmp_path / f"out{number}")
        model = load(kind, base, torch.bfloat16)
        before = state_of(model)
        with InMemoryEdit(model, base, negate=[str(vector)]) as memory:
            memory.set(0.7)
            written = load(kind, tmp_path / f"out{number}", torch.bfloat16).state_dict()
            assert oracle.differing(model.state_dict(), written) == []
            assert oracle.differing(written, before) != []
        assert oracle.differing(model.state_dict(), before) == []


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_what_comes_from_no_file_stays_and_what_is_not_loaded_is_left(name, tmp_path, capfd):
    base = save(build(name), tmp_path / "base")
    tuned = save(build(name, seed=1), tmp_path / "tuned")
    kind = {"llama": LlamaForSequenceClassification}.get(name, AutoModelForCausalLM)
    logging.set_verbosity_error()
    if name == "gpt_neox":  # without its head
        for folder in (base, tuned):
            write(folder, {n: t for n, t in oracle.load(folder).items() if "embed_out" not in n and "lm_head" not in n})
    model = kind.from_pretrained(base, dtype=torch.float32)
    own = [n for n in model.state_dict() if n.startswith(("score", "lm_head", "embed_out"))]
    before, draws = state_of(model), torch.random.get_rng_state()
    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    capfd.readouterr()
    with InMemoryEdit(model, str(base), add=[f"{tuned}@@{base}"]) as memory:
        memory.set(1.0)
        assert len(own) == 1
        changed = oracle.differing(model.state_dict(), before)
        assert own[0] not in changed
        assert len(changed) > 8
    assert oracle.differing(model.state_dict(), before) == []
    assert torch.equal(draws, torch.random.get_rng_state())
    assert capfd.readouterr().err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.WARNING, True)


def test_models_that_cannot_be_edited_in_memory_are_refused(tmp_path, made):
    kind, folder = made("llama")
    base, tuned = str(folder / "base"), str(folder / "tuned")
    model = load(kind, base, torch.float32)
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to("meta"))
    with pytest.raises(MismatchError, match=r"layers.0.mlp.up_proj.weight is offloaded"):
        InMemoryEdit(model, base, add=[f"{tuned}@@{base}"])
    layer.weight = torch.nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(MismatchError, match="is int8 in memory"):
        InMemoryEdit(model, base, add=[f"{tuned}@@{base}"])
    adapted = get_peft_model(load(kind, base, torch.float32), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(MismatchError, match="its layers are not those that transformers loads"):
        InMemoryEdit(adapted.get_base_model(), base, add=[f"{tuned}@@{base}"]).set(1.0)
    config = json.loads((folder / "base/config.json").read_text())
    model = load(kind, base, torch.float32)
    model.resize_token_embeddings(config["vocab_size"] + 8, mean_resizing=False)
    with pytest.raises(MismatchError, match="cannot be edited in memory") as caught:
        InMemoryEdit(model, base, add=[f"{tuned}@@{base}"]).set(1.0)
    assert "taskarith apply" in caught.value.hint


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_edit_in_memory_has_the_bits_of_one_on_disk_and_is_undone_to_the_bit(tmp_path, kind, dtype):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    v = str(tmp_path / "v.safetensors")
    apply(str(base), negate=[v], alpha=0.6, dtype=dtype, output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with InMemoryEdit(model, str(base), negate=[v]) as edit:
        edit.set(1.3)
        edit.set(0.6)
        written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert oracle.differing(model.state_dict(), written.state_dict()) == []
        assert oracle.differing(model.state_dict(), before) != []
    assert oracle.differing(model.state_dict(), before) == []
