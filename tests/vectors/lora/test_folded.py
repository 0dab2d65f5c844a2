"""Deltas that are calculated from the base: DoRA, and rows of trained tokens."""

from __future__ import annotations

import oracle
import pytest
import tiny
from adapters import save_any_adapter
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.edit.in_memory import InMemoryEdit

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


def test_dora_and_tokens_edit_in_memory_and_by_any_chunk(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["up_proj"], "use_dora": True, "trainable_token_indices": [3, 9]}
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    apply(str(base), negate=[str(adapter)], alpha=0.5, output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    with InMemoryEdit(model, str(base), negate=[str(adapter)]) as edit:
        edit.set(0.5)
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        assert oracle.differing(model.state_dict(), expected) == []
