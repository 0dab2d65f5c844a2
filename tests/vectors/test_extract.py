"""Extraction: what a vector file holds, what it counts, and what it refuses."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.header import read_header
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError, MismatchError, OutputError, UsageError
from taskarith.vectors.extract import extract


def rewrite(folder, change):
    """Change the tensors of a one-file model in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


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


def test_the_header_binds_the_vector_to_its_base(tmp_path, phi, phi_tuned):
    result = extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "taskarith-vector"
    assert (tmp_path / metadata["base"]).resolve() == phi
    assert metadata["base_fingerprint"] == fingerprint_model(phi) == result.base.fingerprint
    assert json.loads(metadata["base_tensors"]).keys() == load_file(phi / "model.safetensors").keys()
    assert json.loads(metadata["finetuned"])["fingerprint"] == fingerprint_model(phi_tuned)
    assert json.loads(metadata["versions"])["torch"] == torch.__version__
    assert metadata["inexact"] == "0"


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


def test_base_is_found_in_the_record_of_the_finetune(tmp_path, phi):
    tuned = tiny.forget_base(tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=3))
    with pytest.raises(UsageError, match="does not record its base"):
        extract(None, str(tuned), tmp_path / "v.safetensors")
    (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": str(phi), "revision": None}}))
    assert extract(None, str(tuned), tmp_path / "v.safetensors").base.name == str(phi)
    (tuned / "taskarith.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        extract(None, str(tuned), tmp_path / "v2.safetensors")


def test_tied_heads_on_either_side(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    rewrite(base, lambda t: t.__setitem__("lm_head.weight", t["model.embed_tokens.weight"].clone()))
    result = extract(str(base), str(tuned), tmp_path / "v.safetensors")
    assert result.tensors == 20
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        assert json.loads(file.metadata()["tied"]) == {"lm_head.weight": "model.embed_tokens.weight"}
    # the head of the base is not a copy of the embedding: then it is lost, and that is refused
    rewrite(base, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(MismatchError, match=r"1 tensors of .*base.* are not in .*tuned.*: lm_head\.weight"):
        extract(str(base), str(tuned), tmp_path / "w.safetensors")
    # the other way round: the fine-tune stores the tied head a second time
    rewrite(tuned, lambda t: t.__setitem__("lm_head.weight", t["model.embed_tokens.weight"].clone()))
    rewrite(base, lambda t: t.pop("lm_head.weight"))
    assert extract(str(base), str(tuned), tmp_path / "w.safetensors").tensors == 20


def test_integer_buffers_are_copied_and_must_agree(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    for folder in (base, tuned):
        rewrite(folder, lambda t: t.update(steps=torch.arange(5), flag=torch.tensor(True)))
    assert extract(str(base), str(tuned), tmp_path / "v.safetensors").tensors == 33
    rewrite(tuned, lambda t: t["steps"].add_(1))
    with pytest.raises(MismatchError, match=r"1 integer tensors differ .*steps"):
        extract(str(base), str(tuned), tmp_path / "w.safetensors")
    rewrite(tuned, lambda t: t.update(steps=torch.zeros(5)))
    with pytest.raises(MismatchError, match="floats on one side"):
        extract(str(base), str(tuned), tmp_path / "w.safetensors")


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


def test_what_does_not_correspond_is_refused_and_nothing_is_left(tmp_path, phi, phi_tuned):
    other = tiny.save_model(tmp_path / "qwen2", "qwen2")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MismatchError, match="are not in"):
        extract(str(phi), str(other), tmp_path / "v.safetensors")
    wide = tiny.save_model(tmp_path / "wide", nudge_of=phi, seed=1)
    rewrite(wide, lambda t: t.update({"lm_head.weight": torch.zeros(385, 32), "lm_head.bias": torch.zeros(385)}))
    with pytest.raises(MismatchError, match=r"2 tensors .* differ in shape: lm_head\.bias \[384\] against \[385\]"):
        extract(str(phi), str(wide), tmp_path / "v.safetensors")
    nan = tiny.save_model(tmp_path / "nan", nudge_of=phi, seed=1)
    rewrite(nan, lambda t: t["lm_head.bias"][5].fill_(float("nan")))
    with pytest.raises(MismatchError, match=r"1 deltas are not finite: lm_head\.bias"):
        extract(str(phi), str(nan), tmp_path / "v.safetensors")
    assert sorted(tmp_path.iterdir()) == sorted([*before, wide, nan])
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", dtype="int8")


def test_an_existing_vector_is_kept_unless_told_otherwise(tmp_path, phi, phi_tuned):
    path = tmp_path / "v.safetensors"
    path.write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        extract(str(phi), str(phi_tuned), path)
    assert path.read_text() == "precious"
    with pytest.raises(OutputError, match="says that taskarith wrote it"):
        extract(str(phi), str(phi_tuned), path, overwrite=True)
    path.rename(tmp_path / "thesis")
    extract(str(phi), str(phi_tuned), path, dtype="bfloat16")
    extract(str(phi), str(phi_tuned), path, overwrite=True)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}


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
