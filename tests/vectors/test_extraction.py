"""Deltas that a file cannot hold are refused, with what can be done."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch
from extracting import rewrite

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract


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
