"""Packed deltas against what was written, and against their base and fine-tune."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from damage import flip

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.inspection.verify_packed import compare_deltas, damaged_deltas
from taskarith.progress import SILENT
from taskarith.vectors.codecs.block_file import PackedFile
from taskarith.vectors.extract import extract
from taskarith.vectors.open import open_packed
from taskarith.vectors.pair import PairVector
from taskarith.vectors.vector import BaseRecord

NAME = "model.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    base = tiny.save_model(folder / "base", dtype=torch.bfloat16)
    return base, tiny.save_model(folder / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)


@pytest.mark.parametrize("form", [{"exact": True}, {"top_k": 0.3}], ids=["exact", "sparse"])
def test_a_sample_is_that_of_both_sides_and_a_changed_side_is_seen(sides, tmp_path, form):
    base, tuned = sides
    path = extract(str(base), str(tuned), tmp_path / "v.safetensors", **form).path
    vector = open_packed(path, SILENT)
    pair = PairVector(open_checkpoint(base), open_checkpoint(tuned), BaseRecord(str(base)))
    names = list(vector.shapes)
    count, wrong = compare_deltas(vector, names, pair, 0, 1 << 20)
    assert (count, wrong) == (sum(pair.delta(name).base.elements for name in names), ())
    other = tiny.save_model(tmp_path / "other", nudge_of=base, seed=2, dtype=torch.bfloat16)
    pair = PairVector(open_checkpoint(base), replace(open_checkpoint(other)), BaseRecord(str(base)))
    assert NAME in compare_deltas(vector, names, pair, 0, 1 << 20)[1]


def test_a_changed_blob_and_one_that_is_missing_or_new_are_named(sides, tmp_path):
    path = extract(*map(str, sides), tmp_path / "v.safetensors", exact=True).path
    recorded = dict(PackedFile(path).recorded)
    assert damaged_deltas(PackedFile(path), recorded, SILENT) == ()
    flip(path, NAME, element=20)
    recorded["gone"] = recorded.pop("lm_head.bias")
    assert damaged_deltas(PackedFile(path), recorded, SILENT) == ("gone", "lm_head.bias", NAME)
