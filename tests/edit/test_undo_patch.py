"""The patch beside an edit as it is read: hostile, changed, missing, or of an earlier release."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from damage import files
from safetensors import safe_open
from safetensors.torch import save_file

from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.checkpoints.header import read_header
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import CheckpointError, MismatchError


def test_a_patch_of_an_earlier_release(tmp_path, phi, phi_tuned):
    out = apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True).path
    with safe_open(out / UNDO_NAME, "pt") as file:
        held = {"file:config.json", "file:model.safetensors"}
        kept = {key: file.get_tensor(key) for key in file.keys() if not key.startswith("file:") or key in held}  # noqa: SIM118
    save_file(kept, out / UNDO_NAME, metadata={"format": "taskarith-undo"})
    record = json.loads((out / "taskarith.json").read_text())
    del record["files"], record["digest"]
    (out / "taskarith.json").write_text(json.dumps(record))
    (out / "README.md").unlink()  # such a release wrote none
    found = undo(out, tmp_path / "back")
    assert files(tmp_path / "back") == files(phi)
    assert "an earlier release wrote the patch" in found.remarks[0]
    assert "tokenizer.json" in found.remarks[0]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\b", "", ".", "sub/model.safetensors"])
def test_names_that_point_outside(edited, tmp_path, name):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    with safe_open(out / UNDO_NAME, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors | {f"file:{name}": torch.zeros(1, dtype=torch.uint8)}, out / UNDO_NAME, file.metadata())
    with pytest.raises(CheckpointError, match="points outside"):
        undo(out, tmp_path / "back")


def test_a_patch_that_changed_is_not_used(edited, tmp_path):
    out = shutil.copytree(edited / "out", tmp_path / "out")
    entry = next(one for one in read_header(out / UNDO_NAME).tensors if one.name == "file:tokenizer.json")
    data = bytearray((out / UNDO_NAME).read_bytes())
    data[entry.offset + entry.nbytes // 2] ^= 1
    (out / UNDO_NAME).write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the patch that the edit wrote"):
        undo(out, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_without_a_patch_or_with_a_broken_one(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out")
    for folder in (tmp_path / "out", phi, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="does not hold an undo patch"):
            undo(folder, tmp_path / "back")
    apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True, overwrite=True)
    patch = tmp_path / "out" / UNDO_NAME
    data = bytearray(patch.read_bytes())
    data[-40:] = bytes(40)
    patch.write_bytes(data)
    with pytest.raises((CheckpointError, MismatchError)):
        undo(tmp_path / "out", tmp_path / "back")
    save_file({"file:../evil": torch.zeros(1, dtype=torch.uint8)}, patch, metadata={"format": "taskarith-undo"})
    with pytest.raises(CheckpointError):
        undo(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()
