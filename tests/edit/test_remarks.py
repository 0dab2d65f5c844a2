"""What the user is told of an edit: strangers, files that stay behind, matrices that are held whole."""

from __future__ import annotations

import shutil

from merging import method

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.remarks import own_bases, rounding
from taskarith.edit.run import RunResult


def test_a_vector_on_another_model_of_the_same_shape_says_so_in_one_line(tmp_path, vector, phi, phi_tuned):
    result = apply(str(phi_tuned), negate=[str(vector)], output_dir=tmp_path / "out")
    assert len(result.remarks) == 1
    assert f"was made from {phi}, not from {phi_tuned} (33 of 33 tensors differ)" in result.remarks[0]


def test_sidecars_travel_and_other_weights_are_named(tmp_path, phi, vector):
    base = tmp_path / "base"
    shutil.copytree(phi, base)
    (base / "modeling_own.py").write_text("x = 1\n")
    (base / "pytorch_model.bin").touch()
    result = apply(str(base), negate=[str(vector)], output_dir=tmp_path / "out")
    assert "pytorch_model.bin" in result.remarks[0]
    expected = {path.name for path in base.iterdir()} - {"pytorch_model.bin"} | {"taskarith.json", "README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_dry_run_names_the_matrices_that_are_held_whole(tmp_path, phi, tuned):
    result = apply(str(phi), add=tuned, output_dir=tmp_path / "out", method=method("tsv"), dry_run=True)
    assert "tsv holds" in result.remarks[0]
    assert "model.embed_tokens.weight" in result.remarks[0]
    light = apply(str(phi), add=tuned, output_dir=tmp_path / "out", method=method("iso_c"), dry_run=True)
    assert light.forecast.memory_bytes > 80_000_000
    assert not (tmp_path / "out").exists()


def test_what_quantising_again_costs_is_that_of_the_worst_weight():
    assert rounding(RunResult()) == []
    (remark,) = rounding(RunResult(errors={"a": 0.01, "b": 0.0312, "c": 0.02}))
    assert remark.startswith("3 float8 weights were quantised again, with a relative error of up to 0.031 (b)")


def test_a_base_of_its_own_is_named_where_it_is_not_the_model(phi, tuned):
    base = open_checkpoint(phi)
    operands = open_edit(Edit.from_options([f"{tuned[0]}@@{tuned[1]}", f"{tuned[0]}@@{phi}"]), base)
    assert own_bases(operands) == [f"{tuned[0]} is taken as the difference to {tuned[1]}"]
