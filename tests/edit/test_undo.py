"""The way back: every file of the input as before, from the output and its patch."""

from __future__ import annotations

import shutil

import pytest
import tiny
import torch
from damage import files, flip
from safetensors.torch import save_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import MismatchError


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
@pytest.mark.parametrize("size", [None, 20_000])
def test_every_file_is_as_before(tmp_path, kind, dtype, size):
    base = tiny.save_model(tmp_path / "base", kind, dtype=torch.bfloat16, max_shard_size="30KB")
    (base / "taskarith.json").write_text('{"kind": "finetune"}')
    (base / "LICENSE").write_text("as is")
    tuned = tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)
    before = files(base)
    done = apply(
        str(base),
        negate=[f"{tuned}:0.7"],
        dtype=dtype,
        max_shard_size=size,
        output_dir=tmp_path / "out",
        keep_undo=True,
    )
    assert done.undo_bytes == (tmp_path / "out" / UNDO_NAME).stat().st_size
    shutil.rmtree(base)
    shutil.rmtree(tuned)
    undo(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == before


def test_a_folder_that_changed_after_the_edit_is_not_undone(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True)
    flip(tmp_path / "out/model.safetensors", "model.layers.0.mlp.fc1.weight")
    with pytest.raises(MismatchError, match="fc1"):
        undo(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


CHANGES = {
    "tokenizer changed": lambda out: (out / "tokenizer.json").write_text("changed"),
    "configuration changed": lambda out: (out / "config.json").write_text((out / "config.json").read_text() + " "),
    "licence removed": lambda out: (out / "LICENSE").unlink(),
    "file added": lambda out: (out / "new.py").write_text("1"),
    "nested file changed": lambda out: (out / "original/params.json").write_text("{}"),
}


@pytest.mark.parametrize("change", [*CHANGES, None])
def test_every_file_is_restored_or_named_whatever_was_done_to_the_folder(edited, tmp_path, change):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    if change is not None:
        CHANGES[change](out)
    done = CliRunner().invoke(app, ["undo", str(out), "-o", str(tmp_path / "back")])
    assert done.exit_code == 0, done.output
    before = files(edited / "base")
    assert files(tmp_path / "back") == {key: before[key] for key in before.keys() - {"pytorch_model.bin", ".env"}}
    assert "not restored, since the edit did not carry them: .env, pytorch_model.bin" in done.stderr
    assert ("new.py" in done.stderr) == (change == "file added")


@pytest.mark.parametrize(
    "change",
    ["weights", "", ', "tensors": 3', ', "tensors": {"model.layers.0.mlp.fc1.weight": 1}', ', "tensors": []'],
)
def test_a_folder_whose_parts_are_not_of_one_edit(tmp_path, phi, phi_tuned, change):
    out = tmp_path / "out"
    apply(str(phi), add=[str(phi_tuned)], output_dir=out, keep_undo=True)
    if change == "weights":
        save_file({"other": torch.zeros(2)}, out / "model.safetensors")
    else:
        (out / "taskarith.json").write_text(f'{{"kind": "edit"{change}}}')
    with pytest.raises(MismatchError, match="are not in its weights"):
        undo(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()
