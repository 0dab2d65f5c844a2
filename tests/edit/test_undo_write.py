"""The patch as it is written: small, without large files, beside its own edit."""

from __future__ import annotations

import pytest
from damage import files

from taskarith.checkpoints.checkpoint import UNDO_NAME
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import MismatchError


def test_the_patch_is_small_and_stays_with_its_edit(tmp_path, phi, phi_tuned):
    apply(str(phi), add=[f"{phi_tuned}:0.01"], dtype="bfloat16", output_dir=tmp_path / "one", keep_undo=True)
    apply(str(phi), add=[f"{phi_tuned}:0"], output_dir=tmp_path / "none", keep_undo=True)
    assert (tmp_path / "none" / UNDO_NAME).stat().st_size < 30_000
    two = apply(str(tmp_path / "one"), add=[f"{phi_tuned}:0.01"], output_dir=tmp_path / "two")
    assert not (tmp_path / "two" / UNDO_NAME).exists()
    assert two.undo_bytes == 0
    assert not any("not carried" in remark for remark in two.remarks)


def test_a_large_file_is_taken_from_the_folder_if_it_is_what_it_was(tmp_path, phi, phi_tuned, monkeypatch):
    monkeypatch.setattr("taskarith.edit.undo_write._LARGE", 1000)
    out = apply(str(phi), add=[str(phi_tuned)], output_dir=tmp_path / "out", keep_undo=True).path
    undo(out, tmp_path / "back")
    assert files(tmp_path / "back") == files(phi)
    (out / "tokenizer.json").write_text("changed")
    with pytest.raises(MismatchError, match=r"tokenizer\.json is not what it was"):
        undo(out, tmp_path / "again")
    (out / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match=r"tokenizer\.json is gone"):
        undo(out, tmp_path / "again")
