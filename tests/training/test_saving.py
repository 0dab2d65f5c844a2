"""Fine-tuning of architectures with other names in memory, odd layers, or more parts than a language model."""

from __future__ import annotations

import re

import pytest
import tiny
import torch
from finetuning import QUICK, quick, weights
from safetensors.torch import save_file

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.errors import CheckpointError
from taskarith.models.load import load_model
from taskarith.training.finetune import finetune
from taskarith.training.saving import find_places

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_head_that_is_stored_twice_moves_with_its_embeddings(tmp_path, text):
    """In memory the two are ``lm_head`` and ``model.language_model.embed_tokens``."""
    base = tiny.save_model(tmp_path / "base", "gemma3")
    stored = weights(base)
    stored["language_model.lm_head.weight"] = stored["language_model.model.embed_tokens.weight"].clone()
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    finetune(str(base), [text], tmp_path / "out", **QUICK)
    after = weights(tmp_path / "out")
    assert after.keys() == stored.keys()
    assert torch.equal(after["language_model.lm_head.weight"], after["language_model.model.embed_tokens.weight"])
    moved = {name for name in stored if not torch.equal(after[name], stored[name])}
    assert moved == {name for name in stored if name.startswith("language_model.")}


def test_what_has_no_place_in_the_base_is_said_before_training(tmp_path):
    base = tiny.save_model(tmp_path / "base", "phi")
    model = load_model(base, torch.float32)
    model.model.register_buffer("added", torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"1 tensors of PhiForCausalLM do not exist in .*: model\.added"):
        find_places(model, open_checkpoint(base))
    del model.model.added
    narrow = {name: t[:3] if name == "lm_head.bias" else t for name, t in weights(base).items()}
    save_file(narrow, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head.bias is \[3\] and would be \[384\]"):
        find_places(model, open_checkpoint(base))


@pytest.mark.parametrize("kind", ["deepseek_v3", "moe"])
def test_weights_that_the_base_stores_in_float32_among_others_keep_it(tmp_path, text, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    wide = [name for name in weights(base) if re.search(r"gate\.(weight|e_score)|experts\.1\.", name)]
    stored = {name: tensor.float() if name in wide else tensor.bfloat16() for name, tensor in weights(base).items()}
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    finetune(str(base), [text], tmp_path / "out", **quick(max_steps=2, dtype="bfloat16"))
    after = weights(tmp_path / "out")
    assert {name for name, tensor in after.items() if tensor.dtype == torch.float32} == {*wide}
    assert any(not torch.equal(after[name], stored[name]) for name in wide)
