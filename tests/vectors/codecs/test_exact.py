"""Exact task vectors: a coefficient of 1 gives the fine-tune back, bit for bit; what cannot is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.checkpoints import places
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.publish import publish
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.errors import MismatchError, UsageError
from taskarith.vectors.extract import extract

BFLOAT = torch.bfloat16


def run(*arguments):
    """Run a command as a user does, and return its exit code and what it wrote."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def rewrite(folder, change):
    """Change the tensors of a one-file model in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def pair(tmp_path):
    """A tied Llama of several shards and a fine-tune of it, in bfloat16; a third of its weights has not moved."""
    base = tiny.save_model(tmp_path / "base", "llama", dtype=BFLOAT, max_shard_size="30KB")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1, dtype=BFLOAT, scale=1e-4)
    return base, tuned


def hostile(tensors, seed):
    """Put zeros of both signs, subnormals, infinities and NaNs with payloads into a tensor, in any order."""
    bits = [0, 0x8000, 1, 0x8001, 0x3F80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 0xFFFF]
    values = np.random.default_rng(seed).choice(bits, 32).astype("<u2").view("<i2")
    tensors["model.norm.weight"] = torch.from_numpy(values.copy()).view(BFLOAT)


def test_the_finetune_comes_back_through_the_command_line(tmp_path, pair):
    base, tuned = pair
    vector, out = tmp_path / "v.safetensors", tmp_path / "out"
    code, text = run("extract", base, tuned, "-o", vector, "--exact")
    assert (code, "every element is bit-exact at coefficient 1" in text) == (0, True)
    assert run("apply", "--add", vector, "-o", out)[0] == 0
    assert oracle.differing(oracle.load(out), oracle.load(tuned)) == []
    assert len(list(out.glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1
    dense = extract(str(base), str(tuned), tmp_path / "dense.safetensors")
    assert vector.stat().st_size < dense.nbytes * 0.4


@pytest.mark.parametrize("dtype", [BFLOAT, torch.float16, torch.float32, torch.float64])
def test_hostile_values_come_back(tmp_path, dtype):
    base = tiny.save_model(tmp_path / "base", dtype=dtype)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1, dtype=dtype)
    special = [0.0, -0.0, 1e-45, 1.0, 3e4, float("inf"), -float("inf"), float("nan"), 1e-40, 1e-7, -1e30]
    for folder, seed in ((base, 1), (tuned, 2)):
        values = np.random.default_rng(seed).choice(special, 384)
        rewrite(folder, lambda t, values=values: t.update({"lm_head.bias": torch.from_numpy(values).to(dtype)}))
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    assert result.inexact == 0
    apply(str(base), add=[str(result.path)], output_dir=tmp_path / "out")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tuned)) == []


def test_a_tied_head_that_the_base_stores_follows(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama", dtype=BFLOAT)
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1, dtype=BFLOAT)
    rewrite(base, lambda t: t["model.embed_tokens.weight"][0].zero_())
    rewrite(base, lambda t: t.__setitem__("lm_head.weight", t["model.embed_tokens.weight"].clone()))
    rewrite(tuned, lambda t: t["model.embed_tokens.weight"][0].fill_(-0.0))
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    found = apply(str(base), add=[str(result.path)], output_dir=tmp_path / "out")
    assert found.actions["tied"] == 1
    after, wanted = oracle.load(tmp_path / "out"), oracle.load(tuned)
    assert oracle.differing(after, wanted | {"lm_head.weight": wanted["model.embed_tokens.weight"]}) == []


@pytest.mark.parametrize(("alpha", "dtype"), [(-1.0, None), (0.3, None), (1.0, "float32")])
def test_other_coefficients_are_base_plus_delta(tmp_path, pair, alpha, dtype):
    base, tuned = pair
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    apply(str(base), add=[str(vector.path)], alpha=alpha, dtype=dtype, output_dir=tmp_path / "out")
    before, after = oracle.load(base), oracle.load(tuned)
    wanted = {
        name: oracle.edit(value, [after[name].double() - value.double()], [alpha], getattr(torch, dtype or "bfloat16"))
        for name, value in before.items()
    }
    assert oracle.differing(oracle.load(tmp_path / "out"), wanted) == []


@pytest.mark.parametrize(("chunk", "workers", "device"), [(100, 1, "cpu"), (1000, 3, "cpu"), (1 << 18, 2, "torch")])
def test_chunks_threads_and_torch_change_no_bit(tmp_path, pair, chunk, workers, device):
    base, tuned = pair
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    checkpoint = open_checkpoint(base)
    for alpha, wanted in ((1.0, tuned), (0.5, tmp_path / "half")):
        if alpha != 1:
            apply(str(base), add=[str(vector.path)], alpha=alpha, output_dir=wanted)
        edit = Edit.from_options([str(vector.path)])
        plan = plan_edit(checkpoint, open_edit(edit, checkpoint), replace(edit, alpha=alpha))
        with publish(tmp_path / f"out{alpha}", is_folder=True) as place:
            run_plan(plan, place, chunk=chunk, workers=workers, device=device)
        assert oracle.differing(oracle.load(tmp_path / f"out{alpha}"), oracle.load(wanted)) == []


def test_it_moves_another_model_by_the_same_deltas(tmp_path, pair):
    base, tuned = pair
    other = tiny.save_model(tmp_path / "other", "llama", nudge_of=base, seed=9, dtype=BFLOAT)
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    found = apply(str(other), add=[str(vector.path)], output_dir=tmp_path / "out")
    assert "was made from" in found.remarks[0]
    before, after = oracle.load(base), oracle.load(tuned)
    wanted = {
        name: oracle.edit(value, [after[name].double() - before[name].double()], [1.0], BFLOAT)
        for name, value in oracle.load(other).items()
    }
    assert oracle.differing(oracle.load(tmp_path / "out"), wanted) == []


def test_without_its_base_it_takes_a_copy_and_refuses_anything_else(tmp_path, pair, monkeypatch):
    base, tuned = pair
    monkeypatch.setattr(places, "_recall", lambda _: None)  # else the copy that is edited is remembered, and found
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    moved = tmp_path / "moved"
    shutil.move(base, moved)
    apply(str(moved), add=[str(vector.path)], output_dir=tmp_path / "out")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tuned)) == []
    other = tiny.save_model(tmp_path / "other", "llama", nudge_of=moved, seed=9, dtype=BFLOAT)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MismatchError, match=rf"was made from {base} .*, and {other} is another model \(20 of 20 "):
        apply(str(other), add=[str(vector.path)], output_dir=tmp_path / "bad")
    assert sorted(tmp_path.iterdir()) == before
    shutil.move(other, base)  # a base of that name, with other bits
    apply(str(moved), add=[str(vector.path)], output_dir=tmp_path / "again")
    assert oracle.differing(oracle.load(tmp_path / "again"), oracle.load(tuned)) == []
    narrow = tiny.save_model(tmp_path / "narrow", "llama", nudge_of=moved, dtype=torch.float16)
    shutil.rmtree(base)
    with pytest.raises(MismatchError, match=rf"and {narrow} is another model"):
        apply(str(narrow), add=[str(vector.path)], output_dir=tmp_path / "bad")


def test_two_dtypes_and_adapters_are_refused(tmp_path, pair):
    base, _ = pair
    tuned = tiny.save_model(tmp_path / "wide", "llama", nudge_of=base, seed=1)
    with pytest.raises(MismatchError, match=r"20 tensors have another dtype .*\(BF16 and F32\)") as caught:
        extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    assert "--dtype float64" in caught.value.hint
    with pytest.raises(UsageError, match="--exact takes no --dtype"):
        extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True, dtype="bfloat16")
    assert not (tmp_path / "v.safetensors").exists()


def test_the_file_does_not_depend_on_threads_or_shards(tmp_path, pair, monkeypatch):
    base, tuned = pair
    first = extract(str(base), str(tuned), tmp_path / "a.safetensors", exact=True).path.read_bytes()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert extract(str(base), str(tuned), tmp_path / "b.safetensors", exact=True).path.read_bytes() == first


def test_empty_zero_dimensional_and_unmoved_tensors(tmp_path):
    base = tiny.save_model(tmp_path / "base", dtype=BFLOAT)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1, dtype=BFLOAT)
    same = torch.randn(300, dtype=torch.float64)
    for folder, value in ((base, 1.0), (tuned, -0.0)):
        more = {"scale": torch.tensor(value, dtype=BFLOAT), "none": torch.zeros(0, 4), "same": same}
        rewrite(folder, lambda t, more=more: t.update(more))
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    assert load_file(vector.path)["same"].numel() == 4  # the index alone
    apply(str(base), add=[str(vector.path)], output_dir=tmp_path / "out")
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(tuned)) == []


def test_a_loaded_model_is_edited_likewise(tmp_path, pair, monkeypatch):
    base, tuned = pair
    vector = extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=BFLOAT)
    with InMemoryEdit(model, str(base), add=[str(vector.path)]) as edit:
        edit.set(1.0)
        wanted = oracle.load(tuned)
        assert oracle.differing({name: model.state_dict()[name] for name in wanted}, wanted) == []
    moved, other = tmp_path / "moved", tiny.save_model(tmp_path / "other", "llama", nudge_of=base, dtype=BFLOAT)
    shutil.move(base, moved)
    monkeypatch.setattr(places, "_recall", lambda _: None)  # other tests have the same base
    with pytest.raises(MismatchError, match=rf"and {other} is another model"):
        InMemoryEdit(model, str(other), add=[str(vector.path)]).set(0.5)
