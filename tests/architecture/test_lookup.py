"""transformers is asked once; the answer is kept, and asked again when the files change."""

from __future__ import annotations

import pytest
from architectures import architecture

from taskarith.architecture import peft_check
from taskarith.architecture.lookup import lost_by_peft
from taskarith.checkpoints.checkpoint import open_checkpoint


def test_an_edit_with_an_adapter_asks_transformers_once(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    first = architecture(llama)
    monkeypatch.setattr("taskarith.architecture.ask.describe_model", None)
    assert architecture(llama) == first


def test_peft_is_asked_once_for_each_adapter_of_a_kind(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    asked, checkpoint = [], open_checkpoint(llama)
    monkeypatch.setattr(peft_check, "lost_by_peft", lambda *given: asked.append(given[1:]) or {"lost.weight"})
    given = ("LlamaForCausalLM", {"r": 4}, {"a.weight": (4, 8)})
    for _ in range(2):
        assert lost_by_peft(checkpoint, *given) == {"lost.weight"}
    lost_by_peft(checkpoint, given[0], {"r": 8}, given[2])
    lost_by_peft(checkpoint, *given[:2], {"a.weight": (4, 9)})
    assert asked == [given, (given[0], {"r": 8}, given[2]), (*given[:2], {"a.weight": (4, 9)})]


def test_what_peft_cannot_load_is_asked_again(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", str(tmp_path / "cache"))
    errors = [ValueError("no such module"), RuntimeError("not enough memory")]

    def fail(*_):
        raise errors.pop()

    monkeypatch.setattr(peft_check, "lost_by_peft", fail)
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind):
            lost_by_peft(open_checkpoint(llama), "LlamaForCausalLM", {}, {"a.weight": (4, 8)})
