"""Models and tokenizers are loaded whole, or refused with what to do."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.errors import CheckpointError, UsageError
from taskarith.models import load
from taskarith.models.load import load_config, load_model, load_tokenizer, open_base, without_bars
from taskarith.progress import SILENT


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_weight_is_that_of_the_file(phi):
    state, stored = load_model(phi, torch.float32).state_dict(), load_file(phi / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert load_model(phi, torch.bfloat16).dtype == torch.bfloat16


def test_under_zero3_no_second_model_is_built(phi, monkeypatch):
    """Even on no device at all: transformers would spread its weights over the processes, and fail."""
    monkeypatch.setattr(load, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_config", lambda *_, **__: pytest.fail("it was built"))
    load_model(phi, torch.float32)


def test_missing_weights_would_be_random_and_are_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.final_layernorm.bias")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of PhiForCausalLM: model\.final_layernorm\.bias"):
        load_model(folder, torch.float32)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"is_encoder_decoder": True}, CheckpointError, "is an encoder-decoder model"),
        ({"num_hidden_layers": 10**9}, CheckpointError, "has 1000000000 layers"),
        ({"model_type": "unheard"}, CheckpointError, "transformers cannot load"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, UsageError, "comes with its own code"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(tmp_path, values, error, words):
    folder = tiny.save_model(tmp_path / "m")
    change(folder, "config.json", **values)
    with pytest.raises(error, match=words):
        load_config(open_checkpoint(folder))


def test_a_base_is_opened_without_its_weights(phi):
    base = open_base(str(phi), trust_remote_code=False, listener=SILENT)
    assert (base.origin.path, base.fingerprint) == (phi, fingerprint_model(phi))
    assert len(base.tokenizer) > 256
    assert base.config.model_type == "phi"


def test_a_tokenizer_with_an_odd_limit_is_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    change(folder, "tokenizer_config.json", model_max_length="long")
    with pytest.raises(CheckpointError, match=r"the tokenizer of .*model_max_length"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["phi", "llama", "gpt2", "qwen2"])
def test_a_tokenizer_without_its_files_is_not_made_up(tmp_path, kind):
    folder = tiny.save_model(tmp_path / "m", kind)
    for path in (*folder.glob("tokenizer*"), *folder.glob("chat_template*")):
        path.unlink()
    with pytest.raises(CheckpointError, match="transformers cannot load the tokenizer of"):
        load_tokenizer(folder)


def test_progress_bars_are_off_for_a_while():
    before = logging.is_progress_bar_enabled()
    with without_bars():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() == before
