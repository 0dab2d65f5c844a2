"""transformers is asked once; the answer is kept, and asked again when the files change."""

from __future__ import annotations

from architectures import architecture


def test_an_edit_with_an_adapter_asks_transformers_once(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    first = architecture(llama)
    monkeypatch.setattr("taskarith.architecture.ask.describe_model", None)
    assert architecture(llama) == first
