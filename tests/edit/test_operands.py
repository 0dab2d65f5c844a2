"""The operands of an edit, opened and checked against the model: tied tensors, bases that have moved or are gone."""

from __future__ import annotations

import json

import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import named_paths, open_edit, with_coefficients
from taskarith.errors import MismatchError
from taskarith.spec import OperandRef
from taskarith.vectors.extract import extract


def test_a_tied_head_that_the_base_stores_moves_with_its_embedding(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for operand in (f"{tmp_path / 'v.safetensors'}", f"{tiny.forget_base(tuned)}@@{base}"):
        out = tmp_path / f"out-{'base' if '@@' in operand else 'vector'}"
        result = apply(str(base), add=[operand], output_dir=out)
        assert result.actions == {"edited": 20, "tied": 1}
        edited = oracle.load(out)
        assert torch.equal(edited["lm_head.weight"], edited["model.embed_tokens.weight"])
        assert torch.equal(edited["lm_head.weight"], oracle.load(tuned)["model.embed_tokens.weight"])


def test_a_finetune_whose_recorded_base_is_gone_says_what_to_do(tmp_path, phi):
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=3)
    (tuned / "taskarith.json").write_text(json.dumps({"base": {"name": "/gone/model"}}))
    with pytest.raises(MismatchError, match="/gone/model") as caught:
        apply(str(phi), negate=[str(tuned)], output_dir=tmp_path / "out")
    assert f"--negate {tuned}@@BASE" in caught.value.hint


def test_a_vector_whose_recorded_base_has_moved_says_so(tmp_path):
    base = tiny.save_model(tmp_path / "base")
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    base.rename(tmp_path / "moved")
    with pytest.raises(MismatchError, match=r"the base that .*v\.safetensors records is not found") as caught:
        apply(negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert "taskarith apply MODEL" in caught.value.hint
    result = apply(str(tmp_path / "moved"), add=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert result.remarks == ()  # found again by its content, wherever it lies
    assert result.fingerprint == fingerprint_model(tuned)


def test_all_paths_that_operands_name_are_known():
    references = [OperandRef("a", 1.0), OperandRef("b", -1.0, base="c"), OperandRef("w", 0.0, role="weights")]
    assert named_paths(references) == ["a", "b", "c", "w"]


def test_opened_vectors_take_the_coefficients_of_another_edit(phi, vector):
    base, first = open_checkpoint(phi), Edit.from_options([f"{vector}:0.5"], scale={"mlp": 2})
    (operand,) = open_edit(first, base)
    mlp, head = "model.layers.0.mlp.fc1.weight", "lm_head.weight"
    assert (operand.coefficient_of(mlp), operand.coefficient_of(head)) == (1.0, 0.5)
    second = Edit((OperandRef(str(vector), -3.0, {"lm_head": (0.0,)}),), scale={"mlp": (0.5,)})
    (changed,) = with_coefficients([operand], second, base)
    assert changed.vector is operand.vector
    assert (changed.coefficient_of(mlp), changed.coefficient_of(head)) == (-1.5, 0.0)
    assert (changed.delta_of(head), changed.delta_of("nothing")) == (head, None)
