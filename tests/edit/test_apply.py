"""Applying: the laws of exactness, the accounting, the refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import oracle
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.publish import publish
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.errors import MismatchError, OutputError, UsageError, VectorError
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def vector(tmp_path_factory, phi, phi_tuned):
    path = tmp_path_factory.mktemp("vector") / "forget.safetensors"
    extract(str(phi), str(phi_tuned), path)
    return path


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["30KB", "5GB"])
def test_alpha_0_is_the_base_and_alpha_1_the_finetune(tmp_path, kind, dtype, size):
    base = tiny.save_model(tmp_path / "base", kind, dtype=dtype, max_shard_size=size)
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1, dtype=dtype)
    assert extract(str(base), str(tuned), tmp_path / "v.safetensors").inexact == 0
    v = str(tmp_path / "v.safetensors")
    nothing = apply(str(base), negate=[v], alpha=0, output_dir=tmp_path / "nothing")
    assert set(nothing.actions) == {"copied"}
    assert oracle.differing(oracle.load(tmp_path / "nothing"), oracle.load(base)) == []
    for name, operand in (("from vector", v), ("on the fly", str(tuned))):
        result = apply(str(base), add=[operand], output_dir=tmp_path / name)
        assert set(result.actions) == {"edited"}
        assert oracle.differing(oracle.load(tmp_path / name), oracle.load(tuned)) == []
        assert result.fingerprint == fingerprint_model(tuned)
    AutoModelForCausalLM.from_pretrained(tmp_path / "from vector")


@pytest.mark.parametrize("dtype", [None, "float64", "float32", "bfloat16", "float16"])
def test_several_operands_of_both_signs_equal_the_oracle(tmp_path, phi, phi_tuned, vector, dtype):
    others = [tiny.save_model(tmp_path / f"t{seed}", nudge_of=phi, seed=seed, dtype=torch.bfloat16) for seed in (5, 6)]
    apply(
        str(phi),
        add=[f"{others[0]}:0.3", str(others[1])],
        negate=[f"{vector}:0.7"],
        alpha=0.9,
        dtype=dtype,
        output_dir=tmp_path / "out",
    )
    base, got = oracle.load(phi), oracle.load(tmp_path / "out")
    sources = [oracle.load(other) for other in others]
    expected = {
        name: oracle.edit(
            base[name],
            [*(source[name].double() - base[name].double() for source in sources), load_file(vector)[name]],
            [0.3 * 0.9, 1 * 0.9, -0.7 * 0.9],
            getattr(torch, dtype or "float32"),
        )
        for name in base
    }
    assert oracle.differing(got, expected) == []
    if dtype:
        assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype
    else:
        assert (tmp_path / "out/config.json").read_bytes() == (phi / "config.json").read_bytes()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    order=st.permutations(range(4)),
    chunk=st.integers(500, 50_000),
    workers=st.integers(1, 4),
    shard_size=st.none() | st.integers(1, 200_000),
    device=st.sampled_from(["cpu", "torch"] + ["cuda"] * torch.cuda.is_available()),
)
def test_nothing_but_the_numbers_changes_a_bit(
    tmp_path_factory, phi, operands4, order, chunk, workers, shard_size, device
):
    names, expected = operands4
    folder = tmp_path_factory.mktemp("law")
    base = open_checkpoint(phi)
    edit = replace(Edit.from_options([names[index] for index in order]), alpha=0.7, max_shard_size=shard_size)
    plan = plan_edit(base, open_edit(edit, base), edit)
    with publish(folder, is_folder=True) as place:
        run_plan(plan, place, device=device, workers=workers, chunk=chunk)
    assert fingerprint_model(folder) == expected
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def operands4(tmp_path_factory, phi, phi_tuned):
    folder = tmp_path_factory.mktemp("four")
    names = [
        f"{tiny.save_model(folder / f't{s}', nudge_of=phi, seed=s)}:{w}" for s, w in ((7, 0.3), (8, -0.6), (9, 1.1))
    ]
    names.append(f"{phi_tuned}:0.25")
    return names, apply(str(phi), add=names, alpha=0.7, output_dir=folder / "out").fingerprint


def test_the_model_is_found_in_the_vector_and_the_output_gets_a_name(tmp_path, monkeypatch, vector, phi):
    monkeypatch.chdir(tmp_path)
    result = apply(negate=[str(vector)], alpha=1.0)
    assert str(result.path) == "base-minus-forget-alpha1"
    assert result.model == str(phi)
    assert result.remarks == ()
    record = json.loads((tmp_path / result.path / "taskarith.json").read_text())
    assert record["base"]["fingerprint"] == fingerprint_model(phi)
    assert record["fingerprint"] == result.fingerprint == fingerprint_model(tmp_path / result.path)
    assert record["operands"][0]["coefficient"] == -1.0
    assert record["tensors"]["lm_head.bias"]["action"] == "edited"
    assert len(record["tensors"]) == 33


def test_a_vector_on_another_model_of_the_same_shape_says_so_in_one_line(tmp_path, vector, phi, phi_tuned):
    result = apply(str(phi_tuned), negate=[str(vector)], output_dir=tmp_path / "out")
    assert len(result.remarks) == 1
    assert f"was made from {phi}, not from {phi_tuned} (33 of 33 tensors differ)" in result.remarks[0]


def test_a_vector_of_another_architecture_is_refused(tmp_path, vector):
    for kind, words in (("qwen2", "are not in"), ("gpt2", "are not in")):
        other = tiny.save_model(tmp_path / kind, kind)
        with pytest.raises(MismatchError, match=words):
            apply(str(other), negate=[str(vector)], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_the_vector_does_not_know_is_refused(tmp_path, vector, phi):
    extra = tmp_path / "extra"
    shutil.copytree(phi, extra)
    tensors = load_file(extra / "model.safetensors")
    save_file(tensors | {"new.weight": torch.zeros(3)}, extra / "model.safetensors")
    with pytest.raises(MismatchError, match=r"1 tensors of .*extra are unknown to .*: new\.weight"):
        apply(str(extra), negate=[str(vector)], output_dir=tmp_path / "out")


def test_a_tied_head_that_the_base_stores_moves_with_its_embedding(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for operand in (f"{tmp_path / 'v.safetensors'}", f"{tiny.forget_base(tuned)}@@{base}"):
        out = tmp_path / f"out-{'base' if '@@' in operand else 'vector'}"
        result = apply(str(base), add=[operand], output_dir=out)
        assert result.actions == {"edited": 20, "tied": 1}
        edited = oracle.load(out)
        assert torch.equal(edited["lm_head.weight"], edited["model.embed_tokens.weight"])
        assert torch.equal(edited["lm_head.weight"], oracle.load(tuned)["model.embed_tokens.weight"])


def test_sidecars_travel_and_other_weights_are_named(tmp_path, phi, vector):
    base = tmp_path / "base"
    shutil.copytree(phi, base)
    (base / "modeling_own.py").write_text("x = 1\n")
    (base / "pytorch_model.bin").touch()
    result = apply(str(base), negate=[str(vector)], output_dir=tmp_path / "out")
    assert "pytorch_model.bin" in result.remarks[0]
    expected = {path.name for path in base.iterdir()} - {"pytorch_model.bin"} | {"taskarith.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_dry_run_reads_headers_and_writes_nothing(tmp_path, phi, vector):
    result = apply(str(phi), negate=[str(vector)], output_dir=tmp_path / "out", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert result.actions == {"edited": 33}
    assert result.write_bytes == (phi / "model.safetensors").stat().st_size
    assert result.fingerprint == ""


def test_results_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path, phi):
    big = tmp_path / "big"
    shutil.copytree(phi, big)
    tensors = load_file(big / "model.safetensors")
    for name in ("lm_head.bias", "model.final_layernorm.bias"):
        tensors[name][0] = 3e38
    save_file(tensors, big / "model.safetensors", metadata={"format": "pt"})
    match = r"2 tensors of the result are not finite: lm_head\.bias, model\.final_layernorm\.bias"
    with pytest.raises(MismatchError, match=match):
        apply(str(phi), add=[f"{big}@@{phi}:2"], output_dir=tmp_path / "out")
    with pytest.raises(MismatchError, match="dtype overflows") as caught:
        apply(str(phi), add=[f"{big}@@{phi}"], dtype="float16", output_dir=tmp_path / "out")
    assert "--dtype float32" in caught.value.hint
    assert sorted(tmp_path.iterdir()) == [big]


def test_outputs_are_never_overwritten_unasked(tmp_path, phi, vector):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        apply(str(phi), negate=[str(vector)], output_dir=out)
    assert (out / "thesis.txt").read_text() == "precious"
    with pytest.raises(OutputError, match=r"says that taskarith wrote, and is kept: thesis\.txt"):
        apply(str(phi), negate=[str(vector)], output_dir=out, overwrite=True)
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    first = apply(str(phi), negate=[str(vector)], output_dir=out).fingerprint
    assert apply(str(phi), add=[str(vector)], output_dir=out, overwrite=True).fingerprint != first


def test_wrong_calls(tmp_path, phi, vector):
    tuned = tiny.forget_base(tiny.save_model(tmp_path / "tuned", nudge_of=phi))
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no vector"):
        apply(str(phi), output_dir=out)
    with pytest.raises(VectorError, match="there is no vector"):
        apply(str(phi), negate=[str(tmp_path / "absent.safetensors")], output_dir=out)
    with pytest.raises(VectorError, match="not a task vector"):
        apply(str(phi), negate=[str(phi / "model.safetensors")], output_dir=out)
    with pytest.raises(UsageError, match="alpha is nan"):
        apply(str(phi), negate=[str(vector)], alpha=float("nan"), output_dir=out)
    with pytest.raises(UsageError, match="unknown dtype"):
        apply(str(phi), negate=[str(vector)], dtype="fp8", output_dir=out)
    with pytest.raises(UsageError, match="device"):
        apply(str(phi), negate=[str(vector)], device="abacus", output_dir=out)
    with pytest.raises(UsageError, match="does not record its base"):
        apply(negate=[str(tuned)], output_dir=out)
    assert not out.exists()


def test_a_finetune_whose_recorded_base_is_gone_says_what_to_do(tmp_path, phi):
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=3)
    (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": "/gone/model"}}))
    with pytest.raises(MismatchError, match="/gone/model") as caught:
        apply(str(phi), negate=[str(tuned)], output_dir=tmp_path / "out")
    assert f"--negate {tuned}@@BASE" in caught.value.hint


def test_a_vector_whose_recorded_base_has_moved_says_so(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    base.rename(tmp_path / "moved")
    with pytest.raises(MismatchError, match=r"the base that .*v\.safetensors records is not found") as caught:
        apply(negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert "taskarith apply MODEL" in caught.value.hint
    result = apply(str(tmp_path / "moved"), add=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert result.remarks == ()  # found again by its content, wherever it lies
    assert result.fingerprint == fingerprint_model(tuned)


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
