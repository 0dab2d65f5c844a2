"""Verifying what was written: fingerprints, and elements calculated again by other code."""

from __future__ import annotations

import pytest
import tiny
import torch
from verifying import tensors

from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.inspection.verify import verify
from taskarith.inspection.verify_sample import SAMPLE
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_a_sound_edit_and_a_sound_vector(tmp_path, kind, dtype):
    base = tiny.save_model(tmp_path / "base", kind, dtype=torch.bfloat16, max_shard_size="30KB")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    operands = {"add": [f"{tuned}:0.3"], "negate": [f"{tmp_path / 'v.safetensors'}:0.7", f"{tuned}:0.11"]}
    apply(str(base), **operands, alpha=0.9, dtype=dtype, output_dir=tmp_path / "out")
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert found.unsampled == ""
    assert found.sampled == sum(min(SAMPLE, t.elements) for t in tensors(tmp_path / "out"))
    vector = verify(tmp_path / "v.safetensors")
    assert vector.is_sound
    assert (vector.kind, vector.unsampled) == ("vector", "")
    assert vector.sampled > 0


def test_links_in_the_place_of_files_are_named(tmp_path, phi, phi_tuned):
    out = tmp_path / "out"
    apply(str(phi), add=[f"{phi_tuned}@@{phi}"], output_dir=out)
    (out / "tokenizer.json").rename(tmp_path / "elsewhere")
    (out / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    found = verify(out)
    assert found.is_sound
    assert "outside the folder" in found.uncovered[0]
    assert "tokenizer.json" in found.uncovered[0]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder or file"):
        verify(tmp_path / "none")
