"""From a name to a folder: the hub's cache, and names that mean no model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.resolve import cached_place, resolve_files, resolve_model
from taskarith.errors import CheckpointError
from taskarith.spec import parse_model


def test_hub_ids_are_found_in_the_local_cache(tmp_path, monkeypatch, phi):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--phi"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(phi)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve_model("org/phi")
    assert (found.name, found.revision) == ("org/phi", commit)
    assert open_checkpoint(found.path).tensors
    assert resolve_model(f"org/phi@{commit}").path == found.path
    assert found.recorded_name == "org/phi"
    with pytest.raises(CheckpointError, match="could not be loaded from the hub"):
        resolve_model("org/other")


@pytest.mark.parametrize("name", ["no/such/folder", "absent", "./absent", "/absent/model"])
def test_a_name_that_is_no_model(name):
    with pytest.raises(CheckpointError, match="there is no model folder"):
        resolve_model(name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/c/models--org--vec/snapshots/{'0a' * 20}", f"org/vec@{'0a' * 20}"),
        (f"/c/models--org--vec/snapshots/{'0a' * 20}/a/v.safetensors", f"org/vec@{'0a' * 20}:a/v.safetensors"),
        (f"/c/models--org--a-b.c/snapshots/{'0a' * 20}", f"org/a-b.c@{'0a' * 20}"),
        ("/c/models--org--vec/snapshots/main", ""),
        ("/c/models--org--vec/blobs/0a", ""),
        ("/home/ann/v.safetensors", ""),
    ],
)
def test_what_lies_in_the_cache_has_an_id(path, name):
    assert cached_place(Path(path)) == name


def _refuse(error):
    """Return a download as of a release that asks the hub first, even for a commit that lies in the cache."""

    def download(name, *, local_files_only, **ignored):
        if local_files_only and name == "org/m":
            return "/cached"
        raise LocalEntryNotFoundError("nothing there") if local_files_only else error

    return download


_UNREACHABLE = [LocalEntryNotFoundError("nobody knows"), ConnectionRefusedError("no"), TimeoutError("late")]
_UNREACHABLE += [RuntimeError("an error of the HTTP client's own")]
_REFUSAL = "could not be loaded from the hub or its cache"


def test_offline_only_the_cache_is_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", _refuse(OfflineModeIsEnabled("offline")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_files(parse_model(f"org/m@{'0' * 40}"), ["v.safetensors"]) == Path("/cached")
    with pytest.raises(CheckpointError, match=f"org/other {_REFUSAL}"):
        resolve_files(parse_model("org/other"), ["v.safetensors"])


@pytest.mark.parametrize("error", _UNREACHABLE, ids=lambda error: type(error).__name__)
def test_what_a_lost_connection_left_in_the_cache_is_not_taken_for_the_whole(monkeypatch, error):
    monkeypatch.setattr("huggingface_hub.snapshot_download", _refuse(error))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match=f"org/m {_REFUSAL} .{type(error).__name__}") as caught:
        resolve_files(parse_model("org/m"), ["v.safetensors"])
    assert "HF_HUB_OFFLINE=1" in caught.value.hint


def test_a_full_disk_is_not_taken_for_a_lost_connection(monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _refuse(full))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match="cannot be stored in the hub's cache: No space left") as caught:
        resolve_files(parse_model("org/other"), ["v.safetensors"])
    assert "HF_HOME" in caught.value.hint
