"""Fine-tuned minus base: its bits, what they give back, and what is not finite."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from extracting import rewrite
from safetensors.torch import load_file

from taskarith.checkpoints.header import read_header
from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
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


def test_infinities_on_both_sides_are_refused_with_what_does_it(tmp_path, phi):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=1)
    mask = torch.full((1, 1, 4, 4), -torch.inf).triu(1)
    for folder in (base, tuned):
        rewrite(folder, lambda t: t.update(mask=mask))
    with pytest.raises(MismatchError, match="1 deltas are not finite: mask") as caught:
        extract(str(base), str(tuned), tmp_path / "v.safetensors")
    assert "--exact" in caught.value.hint
    assert "--scale 'mask=0'" in caught.value.hint
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors", exact=True).path)
    apply(str(base), add=[vector], output_dir=tmp_path / "one")
    assert oracle.differing(oracle.load(tmp_path / "one"), oracle.load(tuned)) == []
    with pytest.raises(MismatchError, match="result are not finite: mask") as caught:
        apply(str(base), negate=[vector], output_dir=tmp_path / "half")
    assert "--scale 'mask=0'" in caught.value.hint
    apply(str(base), negate=[vector], scale=["mask=0"], output_dir=tmp_path / "half")
    assert torch.equal(oracle.load(tmp_path / "half")["mask"], mask)
    rewrite(tuned, lambda t: t["mask"].mul_(-1))
    with pytest.raises(MismatchError, match="deltas are not finite: mask") as caught:
        extract(str(base), str(tuned), tmp_path / "w.safetensors")
    assert "--exact" not in caught.value.hint


def test_a_delta_that_overflows_its_dtype_is_refused(tmp_path, phi):
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=1)
    rewrite(tuned, lambda t: t["lm_head.bias"][0].fill_(1e6))
    with pytest.raises(MismatchError, match="not finite"):
        extract(str(phi), str(tuned), tmp_path / "v.safetensors", dtype="float16")
    assert extract(str(phi), str(tuned), tmp_path / "v.safetensors").tensors == 33
