"""Digests of folders and seals of texts: whatever changes is noticed, and nothing else."""

from __future__ import annotations

import hashlib
import os

import pytest

from taskarith.checkpoints.digests import (
    UNSEALED,
    FolderChanges,
    compare_folder,
    digest_folder,
    file_digest,
    folder_files,
    is_sealed,
    seal,
)


@pytest.fixture
def model(tmp_path):
    for name in ("config.json", "sub/a.txt", "gone"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_every_file_is_digested_and_what_changed_is_named(model):
    recorded = digest_folder(model, {"gone"})
    digest = hashlib.sha256(b"config.json").hexdigest()
    assert recorded == {"config.json": {"bytes": 11, "sha256": digest}, "sub/a.txt": recorded["sub/a.txt"]}
    assert file_digest(model / "config.json") == digest
    recorded |= {"gone": {}}
    assert compare_folder(model, recorded, {"gone"}).changed == ()
    (model / "gone").unlink()
    (model / "sub/a.txt").write_text("sub/b.txt")  # as long as before
    (model / "new").touch()
    changes = compare_folder(model, recorded)
    assert changes == FolderChanges(2, ("sub/a.txt",), ("gone",), ("new",))
    assert not changes.are_harmless
    assert FolderChanges(1).are_harmless
    assert not FolderChanges(1, changed=("a",)).are_harmless
    assert not FolderChanges(1, missing=("a",)).are_harmless


def test_of_weights_the_header_alone_is_digested(model):
    weights, header = model / "w.safetensors", (4).to_bytes(8, "little") + b"{}  "
    weights.write_bytes(header + b"tensor")
    recorded = digest_folder(model, headers={weights.name})
    assert recorded[weights.name] == {"bytes": 18, "header_sha256": hashlib.sha256(header).hexdigest()}
    weights.write_bytes(header + b"TENSOR")
    assert compare_folder(model, recorded).changed == ()
    weights.write_bytes(header.replace(b"{}  ", b"{ } ") + b"tensor")
    assert compare_folder(model, recorded).changed == (weights.name,)


def test_what_tools_add_is_harmless_and_links_are_not_followed(model):
    recorded = digest_folder(model)
    (model / ".git").mkdir()
    (model / ".git/config").touch()
    assert compare_folder(model, recorded).added == (".git/",)
    assert compare_folder(model, recorded).are_harmless
    (model / "link").symlink_to(model / "sub")
    assert "link/" in folder_files(model)
    os.mkfifo(model / "pipe")  # is not waited for
    assert digest_folder(model)["pipe"] == {"bytes": 0, "not": "a regular file"}
    assert not compare_folder(model, recorded).are_harmless


def test_a_seal_breaks_with_any_byte():
    text = seal(f'{{"a": 1, "digest": "{UNSEALED}"}}'.encode())
    digest = text[-66:-2].decode()
    assert is_sealed(text, digest)
    assert not is_sealed(text.replace(b"1", b"2"), digest)
    assert not is_sealed(text, digest[::-1])
