"""Whose the folder of a run is, and what may be written there."""

from __future__ import annotations

import json

import pytest

from taskarith.checkpoints.provenance import PROVENANCE_NAME, read_provenance
from taskarith.errors import OutputError
from taskarith.unlearning.folder import begin_folder, check_folder


def test_a_folder_is_begun_once(tmp_path):
    folder = tmp_path / "deep" / "run"
    check_folder(folder, "unlearning", [])
    begin_folder(folder, "unlearning")
    before = (folder / PROVENANCE_NAME).read_bytes()
    (folder / "forget.safetensors").touch()
    check_folder(folder, "unlearning", [tmp_path / "model"])
    begin_folder(folder, "unlearning")
    assert (folder / PROVENANCE_NAME).read_bytes() == before
    assert read_provenance(folder)["kind"] == "unlearning"


def test_another_folder_is_refused(tmp_path):
    begin_folder(tmp_path / "demo", "demo")
    with pytest.raises(OutputError, match="something else"):
        check_folder(tmp_path / "demo", "unlearning", [])
    with pytest.raises(OutputError, match="which this command reads"):
        check_folder(tmp_path / "demo" / "deep", "unlearning", [tmp_path / "demo"])
    record = tmp_path / "demo" / PROVENANCE_NAME
    record.write_text(json.dumps(json.loads(record.read_text()) | {"cleaned": True}))
    with pytest.raises(OutputError, match="removed by clean"):
        check_folder(tmp_path / "demo", "demo", [])


@pytest.mark.parametrize("place", ["file", "link"])
def test_what_is_not_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is not a folder"):
        check_folder(tmp_path / place, "demo", [])
