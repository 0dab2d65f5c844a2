"""Fine-tunes with an enlarged or reduced vocabulary: refused with the way out; vectors of the rows that both have."""

from __future__ import annotations

import oracle
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vocabularies import ROWS, resized

from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import MismatchError, TaskarithError, UsageError, VectorError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract


def test_a_vector_of_shared_rows_is_sound_and_fits_the_base(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS + 12)
    for rows, folder in ((ROWS + 12, tuned), (ROWS - 9, resized(tmp_path / "short", phi, ROWS - 9))):
        vector = tmp_path / f"{rows}.safetensors"
        extract(str(phi), str(folder), vector, vocab="intersection")
        assert verify(vector).is_sound
        apply(str(phi), add=[str(vector)], vocab="intersection", output_dir=tmp_path / f"out {rows}")
        out, fine = oracle.load(tmp_path / f"out {rows}"), oracle.load(folder)
        for name, values in out.items():
            shared = min(len(values), len(fine[name]))
            assert values[:shared].equal(fine[name][:shared])
    apply(str(phi), add=[str(tmp_path / f"{ROWS + 12}.safetensors")], output_dir=tmp_path / "whole")


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (ROWS - 9, {"vocab": "union"}, "has fewer rows than"),
        (ROWS + 9, {"vocab": "union", "exact": True}, "stored as they are"),
        (ROWS + 9, {"vocab": "all"}, "unknown vocab 'all'"),
        (ROWS + 9, {}, "differ in shape"),
    ],
)
def test_vectors_of_other_vocabularies_that_cannot_be(tmp_path, phi, rows, options, reason):
    tuned = resized(tmp_path / "tuned", phi, rows)
    with pytest.raises(TaskarithError, match=reason):
        extract(str(phi), str(tuned), tmp_path / "v.safetensors", **options)
    assert not (tmp_path / "v.safetensors").exists()


@pytest.mark.parametrize("table", ['{"nowhere": 3}', '{"model.embed_tokens.weight": -1}', "[]", "{"])
def test_a_broken_count_of_rows_is_refused(tmp_path, phi, table):
    vector = tmp_path / "v.safetensors"
    extract(str(phi), str(resized(tmp_path / "tuned", phi, ROWS + 3)), vector, vocab="union")
    with safe_open(vector, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(vector), vector, metadata | {"base_rows": table})
    with pytest.raises(VectorError, match="broken header: 'base_rows'"):
        apply(str(phi), add=[str(vector)], vocab="union", output_dir=tmp_path / "out")


def test_it_is_refused_unasked_with_both_sizes_and_the_way_out(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS + 12)
    with pytest.raises(MismatchError, match=rf"lm_head\.weight \[{ROWS}, 32\] against \[{ROWS + 12}, 32\]") as caught:
        apply(str(phi), add=[f"{tuned}@@{phi}"], output_dir=tmp_path / "out")
    assert "--vocab intersection" in caught.value.hint
    with pytest.raises(MismatchError, match=r"3 tensors of .* differ in shape") as caught:
        extract(str(phi), str(tuned), tmp_path / "v.safetensors")
    assert "--vocab intersection, an option of apply and extract" in caught.value.hint
    with pytest.raises(UsageError, match="unknown vocab 'both'"):
        apply(str(phi), add=[f"{tuned}@@{phi}"], vocab="both", output_dir=tmp_path / "out")


def test_other_shapes_are_refused_with_the_option_too(tmp_path, phi, phi_tuned):
    tensors = load_file(phi_tuned / "model.safetensors")
    for name, change in (
        ("model.layers.0.mlp.fc1.weight", lambda values: values[:-1]),  # no vocabulary
        ("lm_head.weight", lambda values: values[:, :-1]),  # other columns
        ("lm_head.bias", lambda values: values[:-1]),  # not what its configuration says
    ):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors | {name: change(tensors[name]).contiguous()}, folder / "model.safetensors")
        (folder / "config.json").write_text((phi / "config.json").read_text())
        with pytest.raises(MismatchError, match=r"1 tensors of .* differ in shape") as caught:
            apply(str(phi), add=[f"{folder}@@{phi}"], vocab="intersection", output_dir=tmp_path / "out")
        assert caught.value.hint == "This is another base."


def test_the_command_repeats_it_from_the_record(tmp_path, phi):
    tuned = resized(tmp_path / "tuned", phi, ROWS - 7)
    arguments = ["apply", phi, "--add", f"{tuned}@@{phi}", "--vocab", "intersection", "--scale", "embed_tokens=0.5"]
    done = CliRunner().invoke(app, [str(one) for one in (*arguments, "-o", tmp_path / "out", "--keep-undo")])
    assert done.exit_code == 0, done.output
    assert "7 more that only the model has are left as they are" in " ".join(done.output.split())
    again = ["apply", "--config", tmp_path / "out/taskarith.json", "-o", tmp_path / "again"]
    done = CliRunner().invoke(app, [str(one) for one in again])
    assert done.exit_code == 0, done.output
    assert oracle.differing(oracle.load(tmp_path / "again"), load_file(tmp_path / "out/model.safetensors")) == []
    back = CliRunner().invoke(app, ["undo", str(tmp_path / "out"), "-o", str(tmp_path / "back")])
    assert back.exit_code == 0, back.output
    assert oracle.differing(oracle.load(tmp_path / "back"), oracle.load(phi)) == []
