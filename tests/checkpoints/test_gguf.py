"""GGUF models: found by their content, dequantised once."""

from __future__ import annotations

import pytest

from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import CheckpointError


def test_gguf_is_recognised_by_its_content(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="2 GGUF files"):
        resolve_model(str(tmp_path))
    (tmp_path / "b.gguf").write_bytes(b"what")
    with pytest.raises(CheckpointError, match="nor a GGUF"):
        resolve_model(str(tmp_path / "b.gguf"))
