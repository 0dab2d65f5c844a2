"""The language part of a model: what texts reach of it, and that it predicts token after token."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
import transformers
from finetuning import QUICK, Notes
from transformers import PreTrainedModel

from taskarith.errors import CheckpointError
from taskarith.evaluation.models import open_model
from taskarith.models.language import names_outside
from taskarith.models.load import load_model
from taskarith.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["phi", *tiny.WITH_PICTURES])
def test_no_prediction_depends_on_a_later_token(tmp_path, kind):
    """PaliGemma would see a whole text at once if it were not told that all of it is to be predicted."""
    model = load_model(tiny.save_model(tmp_path / "base", kind), torch.float32)
    ids = torch.arange(100, 108)[None]
    with torch.no_grad():
        for inner in (model, model.base_model):
            first, second = (inner(input_ids=one)[0][:, :-1] for one in (ids, ids + (ids == 107)))
            assert torch.equal(first, second)


def test_models_that_do_not_continue_texts_are_refused(tmp_path, text):
    small = {"vocab_size": tiny.VOCABULARY, "d_model": 32}
    t5 = transformers.T5Config(**small, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0}
    layers = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in _ONE_LAYER.items()}
    whisper = transformers.WhisperConfig(**small, **layers, **ends, num_mel_bins=8, max_target_positions=32)
    bert = transformers.BertConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    for auto, config, message in (
        ("AutoModelForSeq2SeqLM", t5, r"is an encoder-decoder model \(T5ForConditionalGeneration\)"),
        ("AutoModelForSpeechSeq2Seq", whisper, r"is an encoder-decoder model \(WhisperForConditionalGeneration\)"),
        ("AutoModelForMaskedLM", bert, "BertLMHeadModel is not a causal language model: its predictions depend on"),
    ):
        base = tmp_path / config.model_type
        getattr(transformers, auto).from_config(config).save_pretrained(base)
        tiny.tokenizer().save_pretrained(base)
        with pytest.raises(CheckpointError, match=message):
            finetune(str(base), [text], tmp_path / "out", **QUICK)
        with pytest.raises(CheckpointError, match=message):
            assert open_model(str(base), torch.device("cpu"), None, Notes()).model
    assert not (tmp_path / "out").exists()


_ONE_LAYER = {"layers": 1, "attention_heads": 4, "ffn_dim": 64}


def test_a_model_that_needs_a_picture_is_refused(tmp_path, text):
    config = transformers.Blip2Config(
        vision_config=tiny.PICTURES,
        qformer_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48},
        text_config={"model_type": "opt", "vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0},
        image_token_index=5,
    )
    base = tmp_path / "base"
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"does not run on text alone: .*'pixel_values'"):
        finetune(str(base), [text], tmp_path / "out", **QUICK)


def test_parts_are_told_apart(tmp_path):
    llava = load_model(tiny.save_model(tmp_path / "llava", "llava"), torch.float32)
    assert isinstance(llava, PreTrainedModel)
    outside = names_outside(llava)
    assert {name.split(".")[1] for name in outside} == {"vision_tower", "multi_modal_projector"}
    phi = load_model(tiny.save_model(tmp_path / "phi"), torch.float32)
    assert names_outside(phi) == []
    assert json.loads((tmp_path / "llava/config.json").read_text())["model_type"] == "llava"
