"""What PEFT does not load stands in a file beside the adapter."""

from __future__ import annotations

import oracle
import pytest
import tiny
import torch

from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.evaluation.evaluate import evaluate
from taskarith.vectors.low_rank import extract_low_rank


def test_what_peft_cannot_hold_stays_exact_in_a_file_beside(tmp_path):
    base, tuned = (tiny.save_model(tmp_path / name, "mamba", seed=seed) for name, seed in (("base", 0), ("tuned", 1)))
    result = extract_low_rank(str(base), str(tuned), tmp_path / "adapter", rank=2)
    text = tmp_path / "retain.txt"
    text.write_text(tiny.text(20))
    lost = {f"backbone.layers.{layer}.mixer.{name}" for layer in (0, 1) for name in ("A_log", "D", "out_proj.weight")}
    assert {*result.rest} == lost  # bare parameters, and a layer that PEFT refuses
    apply(add=[str(tmp_path / "adapter")], output_dir=tmp_path / "out")
    expected, found = oracle.load(tuned), oracle.load(tmp_path / "out")
    for name in lost:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-7)
    with pytest.raises(CheckpointError, match=r"has deltas in rest\.safetensors, which PEFT does not load"):
        evaluate([str(tmp_path / "adapter")], {"retain": str(text)})
