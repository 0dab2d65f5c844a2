"""Rows of embeddings and heads that an edit reaches where vocabularies differ in size; the others stay."""

from __future__ import annotations

import json
from dataclasses import replace

import oracle
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM
from vocabularies import ROWS, expected, resized

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("rows", [ROWS + 12, ROWS - 7])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_shared_rows_are_edited_and_the_others_stay(tmp_path, kind, rows, dtype):
    base = tiny.save_model(tmp_path / "base", kind, max_shard_size="30KB")
    whole = tiny.save_model(tmp_path / "whole", kind, nudge_of=base, seed=1)
    tiny.save_model(tmp_path / "single", kind, nudge_of=base, seed=2)
    tuned = resized(tmp_path / "tuned", tmp_path / "single", rows)
    result = apply(
        str(base),
        add=[f"{tuned}@@{base}:0.6"],
        negate=[f"{whole}:0.25"],
        dtype=dtype,
        vocab="intersection",
        output_dir=tmp_path / "out",
    )
    wide = getattr(torch, dtype) if dtype else None
    right = expected(oracle.load(base), [oracle.load(tuned), oracle.load(whole)], [0.6, -0.25], wide)
    assert oracle.differing(oracle.load(tmp_path / "out"), right) == []
    assert len(result.remarks) == 1
    embeddings = [name for name in right if len(right[name]) == ROWS]
    assert result.remarks[0].startswith(f"{min(rows, ROWS)} rows of ")
    assert f" are edited; {abs(rows - ROWS)} more that " in result.remarks[0]
    assert ("are left as they are" if rows < ROWS else "are not used") in result.remarks[0]
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert record["vocab"] == "intersection"
    limited = {name: entry["rows"] for name, entry in record["tensors"].items() if "rows" in entry}
    assert limited == (dict.fromkeys(embeddings, rows) if rows < ROWS else {})
    found = verify(tmp_path / "out", seed=7)
    assert found.is_sound
    assert found.unsampled == ""
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_coefficient_1_gives_the_finetune_in_the_shared_rows_and_the_base_elsewhere(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS - 100)
    apply(str(phi), add=[f"{tuned}@@{phi}"], vocab="intersection", output_dir=tmp_path / "out")
    out, base, fine = oracle.load(tmp_path / "out"), oracle.load(phi), oracle.load(tuned)
    for name, values in out.items():
        rows = len(fine[name])
        assert values[:rows].equal(fine[name])
        assert values[rows:].equal(base[name][rows:])


@pytest.mark.parametrize("chunk", [100, 1 << 18])
def test_rows_end_within_chunks(tmp_path, monkeypatch, phi, chunk):
    from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
    from taskarith.checkpoints.publish import publish
    from taskarith.edit.edit import Edit
    from taskarith.edit.operands import open_edit
    from taskarith.edit.plan import plan_edit
    from taskarith.edit.run import run_plan

    tuned = resized(tmp_path / "tuned", phi, ROWS - 7)
    base = open_checkpoint(phi)
    edit = replace(Edit.from_options([f"{tuned}@@{phi}"]), alpha=0.3, vocab="intersection")
    plan = plan_edit(base, open_edit(edit, base), edit)
    for name, device in (("cpu", "cpu"), ("torch", "torch")):
        with publish(tmp_path / name, is_folder=True) as place:
            run_plan(plan, place, chunk=chunk, device=device)
    right = expected(oracle.load(phi), [oracle.load(tuned)], [0.3], None)
    assert oracle.differing(oracle.load(tmp_path / "cpu"), right) == []
    assert fingerprint_model(tmp_path / "cpu") == fingerprint_model(tmp_path / "torch")


@pytest.mark.parametrize("rows", [ROWS + 12, ROWS - 7])
def test_a_dense_vector_on_a_resized_model(tmp_path, phi, phi_tuned, rows):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    model = resized(tmp_path / "model", phi, rows)
    with pytest.raises(MismatchError, match=rf"\[{ROWS}, 32\] against \[{rows}, 32\]") as caught:
        apply(str(model), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert "--vocab intersection" in caught.value.hint
    options = {"vocab": "intersection", "output_dir": tmp_path / "out"}
    result = apply(str(model), negate=[str(tmp_path / "v.safetensors")], **options)
    base, tuned, before = oracle.load(phi), oracle.load(phi_tuned), oracle.load(model)
    right = {}
    for name, values in before.items():
        shared = min(len(values), len(base[name]))
        delta = torch.zeros(values.shape, dtype=torch.float64)
        delta[:shared] = (tuned[name][:shared].double() - base[name][:shared].double()).float().double()
        right[name] = oracle.edit(values, [delta], [-1.0], values.dtype)
    assert oracle.differing(oracle.load(tmp_path / "out"), right) == []
    assert verify(tmp_path / "out").is_sound
    assert any(f"{min(rows, ROWS)} rows of " in remark for remark in result.remarks)
