"""A fine-tune against its base: which tensors correspond."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from extracting import rewrite
from safetensors import safe_open
from two_sides import EMBED, HEAD, E, make, save

from taskarith.errors import MismatchError, UsageError
from taskarith.vectors.extract import extract


def test_a_copy_on_the_side_of_the_fine_tune_is_left_out(tmp_path):
    base, tuned = save(tmp_path / "base", {EMBED: E}), save(tmp_path / "tuned", {EMBED: E + 1, HEAD: E + 1})
    assert extract(str(base), str(tuned), tmp_path / "v.safetensors").tensors == 1
    save(tuned, {EMBED: 0 * E, HEAD: 0 * E})
    with pytest.raises(MismatchError, match=f"1 tensors of .*tuned are not in .*base: {HEAD}") as caught:
        extract(str(base), str(tuned), tmp_path / "w.safetensors")
    assert "not a copy" not in caught.value.message


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2, torch.int32, torch.bool])
def test_what_cannot_be_subtracted_is_named_with_its_dtype(tmp_path, pair, dtype):
    base, tuned = pair
    first = make(base, tmp_path / "first", lambda t: t | {"extra": torch.ones(4).to(dtype)})
    second = make(tuned, tmp_path / "second", lambda t: t | {"extra": torch.zeros(4).to(dtype)})
    floats = make(tuned, tmp_path / "floats", lambda t: t | {"extra": torch.zeros(4)})
    words = "integer tensors" if dtype in (torch.int32, torch.bool) else r"dtypes that cannot be subtracted .*extra \("
    with pytest.raises(MismatchError, match=words):
        extract(str(first), str(second), tmp_path / "v.safetensors")
    with pytest.raises(MismatchError, match=r"floats on one side and not on the other: extra \(\w+ and F32\)"):
        extract(str(first), str(floats), tmp_path / "v.safetensors")


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
