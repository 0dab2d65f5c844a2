"""Fine-tuned minus base: its bits, what they give back, and what is not finite."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from extracting import rewrite
from safetensors.torch import load_file

from taskarith.checkpoints.header import read_header
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_deltas_are_finetuned_minus_base(tmp_path, kind):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="30KB")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors", dtype="float64")
    before, after, deltas = oracle.load(base), oracle.load(tuned), load_file(tmp_path / "v.safetensors")
    assert deltas.keys() == before.keys()
    for name, delta in deltas.items():
        assert torch.equal(delta, after[name].double() - before[name].double()), name
    assert result.inexact == 0
    assert result.tensors == len(before)
    assert result.elements == sum(tensor.numel() for tensor in before.values())
    assert result.norm == pytest.approx(sum(float((d**2).sum()) for d in deltas.values()) ** 0.5, rel=1e-12)
    assert result.nbytes == (tmp_path / "v.safetensors").stat().st_size


@pytest.mark.parametrize(("dtype", "code"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_inexact_is_the_number_of_elements_that_do_not_come_back(tmp_path, dtype, code):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    rewrite(tuned, lambda tensors: tensors["lm_head.bias"][:3].copy_(torch.tensor([1e-30, -0.0, 3e-20])))
    rewrite(base, lambda tensors: tensors["lm_head.bias"][:3].copy_(torch.tensor([1.0, 0.0, -2.0])))
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors", dtype=dtype)
    before, after, deltas = oracle.load(base), oracle.load(tuned), load_file(tmp_path / "v.safetensors")
    assert {entry.dtype for entry in read_header(tmp_path / "v.safetensors").tensors} == {code}
    again = {name: oracle.edit(before[name], [deltas[name]], [1.0], torch.float32) for name in before}
    misses = sum(int((again[n].view(torch.int32) != after[n].view(torch.int32)).sum()) for n in before)
    assert result.inexact == misses
    assert misses >= 3 if dtype == "float32" else misses > 1000


def test_empty_and_zero_dimensional_tensors(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    rewrite(base, lambda t: t.update(scale=torch.tensor(1.0), none=torch.zeros(0, 4)))
    rewrite(tuned, lambda t: t.update(scale=torch.tensor(1.5), none=torch.zeros(0, 4)))
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    deltas = load_file(tmp_path / "v.safetensors")
    assert deltas["scale"].shape == ()
    assert deltas["scale"].item() == 0.5
    assert deltas["none"].shape == (0, 4)
