"""Deltas that are calculated from the base: DoRA, and rows of trained tokens."""

from __future__ import annotations

import pytest
import tiny
from adapters import check_in_memory, save_any_adapter

pytestmark = pytest.mark.usefixtures("no_warnings_of_peft")


def test_dora_and_tokens_edit_in_memory_and_by_any_chunk(tmp_path):
    base = tiny.save_model(tmp_path / "base", "qwen2")
    options = {"target_modules": ["up_proj"], "use_dora": True, "trainable_token_indices": [3, 9]}
    adapter = save_any_adapter(base, tmp_path / "adapter", **options)
    check_in_memory(base, adapter, tmp_path / "out")
