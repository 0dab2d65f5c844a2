"""GGUF models: found by their content, dequantised once."""

from __future__ import annotations

import oracle
import pytest
import torch

from benchmarks.robustness import sound
from taskarith.checkpoints import gguf
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import CheckpointError, OutputError


def test_gguf_is_recognised_by_its_content(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="2 GGUF files"):
        resolve_model(str(tmp_path))
    (tmp_path / "b.gguf").write_bytes(b"what")
    with pytest.raises(CheckpointError, match="nor a GGUF"):
        resolve_model(str(tmp_path / "b.gguf"))


def test_gguf_is_dequantised_once_and_found_again_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "m.gguf"
    sound.make_gguf(path)
    first = gguf.dequantize_gguf(path)
    assert first.parent.parent == tmp_path / "cache"
    assert {tensor.dtype for tensor in oracle.load(first).values()} == {torch.float32}
    times = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    path.rename(tmp_path / "other.gguf")
    again = gguf.dequantize_gguf(tmp_path / "other.gguf")
    assert again.name.rpartition("-")[2] == first.name.rpartition("-")[2]
    sound.make_gguf(path)
    assert gguf.dequantize_gguf(path) == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == times


def test_gguf_without_a_place_to_dequantise_into_is_refused(tmp_path, monkeypatch):
    sound.make_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(gguf, "writable_caches", lambda _: iter(()))
    monkeypatch.setattr(gguf, "cache_folders", lambda _: [])
    with pytest.raises(OutputError, match="no cache folder can be written") as caught:
        gguf.dequantize_gguf(tmp_path / "m.gguf")
    assert "TASKARITH_CACHE" in caught.value.hint
