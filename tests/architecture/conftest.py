"""Models that several modules of tests read."""

from __future__ import annotations

import pytest
import torch
from architectures import SMALL
from transformers import AutoModelForCausalLM, LlamaConfig


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).float().save_pretrained(tmp_path / "base")
    return tmp_path / "base"
