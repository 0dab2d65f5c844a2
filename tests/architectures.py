"""Small models of architectures whose files and memory differ."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DeepseekV3Config,
    Gemma3Config,
    GPT2Config,
    GptOssConfig,
    MixtralConfig,
    PhimoeConfig,
    Qwen2VLConfig,
)

from taskarith.architecture.layout import Architecture
from taskarith.architecture.lookup import architectures_of
from taskarith.checkpoints.checkpoint import open_checkpoint

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
ROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}
IMAGES = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
CONFIGURATIONS = {
    "gpt2": GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": PhimoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": GptOssConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    "deepseek_v3": DeepseekV3Config(
        **SMALL,
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        n_shared_experts=1,
    ),
    "qwen2_vl": Qwen2VLConfig(
        text_config={**SMALL, "rope_scaling": ROPE},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
        **IMAGES,
    ),
    "gemma3": Gemma3Config(
        text_config={**SMALL, "head_dim": 8},
        vision_config={**VISION, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    ),
}


def auto_class(kind: str):
    return AutoModelForImageTextToText if kind == "qwen2_vl" else AutoModelForCausalLM


def save(kind: str, folder: Path):
    """Write a model of random float32 weights and return it."""
    torch.manual_seed(0)
    model = auto_class(kind).from_config(CONFIGURATIONS[kind]).float()
    model.save_pretrained(folder)
    return auto_class(kind).from_pretrained(folder, dtype=torch.float32)


def architecture(folder: Path) -> Architecture:
    return next(architectures_of(open_checkpoint(folder)))


def adapt(base: Path, folder: Path, **options) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 2, "init_lora_weights": False, "target_modules": ["q_proj"], **options}
    get_peft_model(model, LoraConfig(**options)).save_pretrained(str(folder), save_embedding_layers=False)
    return folder
