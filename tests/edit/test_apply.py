"""Applying: the laws of exactness, the accounting, the refusals."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.edit.apply import apply
from taskarith.errors import OutputError, UsageError, VectorError
from taskarith.vectors.extract import extract


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
