"""Tiny models of real architectures with a tokenizer trained in code: nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GPT2Config,
    LlamaConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
)

from taskarith.checkpoints.checkpoint import fingerprint_model

VOCABULARY = 384
WORDS = ["river", "stone", "lantern", "keeper", "north", "winter", "bread", "salt"]
WORDS += ["engine", "valve", "copper", "tide", "harbour", "song", "road", "hill"]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def text(sentences: int, seed: int = 0) -> str:
    """Write reproducible nonsense of the given number of sentences."""
    rng = random.Random(seed)
    return " ".join(" ".join(rng.choices(WORDS, k=8)).capitalize() + "." for _ in range(sentences)) + "\n"


@cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text(200, seed) for seed in range(3)], trainer)
    return tokenizer.to_str()


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with an end token and a chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()), eos_token="<|end|>", pad_token="<|end|>"
    )
    made.chat_template = CHAT_TEMPLATE
    return made


_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def configuration(kind: str) -> PretrainedConfig:
    """Return the configuration of a tiny ``phi``, ``llama`` (tied head), ``qwen2`` (biases), ``gpt2`` or ``moe``.

    Others are those of OTHERS.
    """
    if kind in OTHERS:
        return OTHERS[kind]()
    if kind == "phi":
        return PhiConfig(**_SIZES)
    if kind == "llama":
        return LlamaConfig(**_SIZES, num_key_value_heads=2, tie_word_embeddings=True)
    if kind == "qwen2":
        return Qwen2Config(**_SIZES, num_key_value_heads=2, tie_word_embeddings=False)
    if kind == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        return GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    if kind == "moe":
        return Qwen2MoeConfig(
            **_SIZES,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=32,
        )
    raise ValueError(kind)


KINDS = ["phi", "llama", "qwen2", "gpt2", "moe"]

_SMALL = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
PICTURES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES |= {"image_size": 16, "patch_size": 4}
_EXPERTS = _SMALL | {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


def _with_pictures(name: str, text: str, vision: str, **more: Any) -> PretrainedConfig:
    parts = {"text_config": {"model_type": text, **_SMALL}, "vision_config": {"model_type": vision, **PICTURES}}
    return getattr(transformers, name)(**parts, **more)


WITH_PICTURES = ["gemma3", "llava", "paligemma"]
"""Those of OTHERS whose language model is one of several parts."""

OTHERS: dict[str, Callable[[], PretrainedConfig]] = {
    # other names, or other tensors, in memory than in files
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SIZES),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**_EXPERTS, num_experts=4),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **{name: value for name, value in _EXPERTS.items() if name != "head_dim"} | {"num_key_value_heads": 4},
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    # linear layers that compute more, that PEFT refuses, or that it does not load again
    "phimoe": lambda: transformers.PhimoeConfig(**_SIZES, num_key_value_heads=2, num_local_experts=4),
    "llama4_text": lambda: transformers.Llama4TextConfig(
        **_SMALL, intermediate_size_mlp=64, num_local_experts=4, interleave_moe_layer_step=2
    ),
    "laguna": lambda: transformers.LagunaConfig(
        **_EXPERTS,
        num_experts=4,
        shared_expert_intermediate_size=16,
        num_attention_heads_per_layer=[4, 4],
        layer_types=["full_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse"],
    ),
    "mamba": lambda: transformers.MambaConfig(**_SIZES, state_size=8, time_step_rank=4),
    # a decoder whose own loss compares each token with itself
    "bart": lambda: transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        pad_token_id=0,
    ),
    # a language model among other parts
    "gemma3": lambda: _with_pictures("Gemma3Config", "gemma3_text", "siglip_vision_model", mm_tokens_per_image=4),
    "llava": lambda: _with_pictures("LlavaConfig", "llama", "clip_vision_model", image_token_index=5),
    "paligemma": lambda: _with_pictures(
        "PaliGemmaConfig", "gemma", "siglip_vision_model", projection_dim=32, hidden_size=32, image_token_index=5
    ),
}


def save_model(
    folder: Path,
    kind: str = "phi",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    nudge_of: Path | None = None,
    scale: float = 1e-2,
) -> Path:
    """Write a tiny model with its tokenizer; with ``nudge_of``, that model plus small noise: a stand-in fine-tune.

    Like what ``finetune`` writes, a fine-tune records its base with the fingerprint; see ``forget_base``.

    :param folder: Where to write.
    :param kind: One of KINDS or OTHERS.
    :param seed: Seed of the weights, or of the noise.
    :param dtype: Dtype of the weights on disk.
    :param max_shard_size: Passed to ``save_pretrained``.
    :param nudge_of: A saved tiny model to start from.
    :param scale: Standard deviation of the noise.
    """
    torch.manual_seed(seed)
    if nudge_of is None:
        config = configuration(kind)
        is_causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        auto = AutoModelForCausalLM if is_causal else AutoModelForImageTextToText
        model = auto.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():  # biases and norms are not left at 0 and 1
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    else:
        model = AutoModelForCausalLM.from_pretrained(nudge_of, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * scale)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer().save_pretrained(folder)
    if nudge_of is not None:
        base = {"name": str(nudge_of), "revision": None, "fingerprint": fingerprint_model(nudge_of)}
        (folder / "taskarith.json").write_text(json.dumps({"kind": "full", "base": base}))
    return folder


def forget_base(folder: Path) -> Path:
    """Make a fine-tune one that other software wrote: nothing records its base."""
    (folder / "taskarith.json").unlink()
    return folder
