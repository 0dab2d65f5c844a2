"""How big a tiny model is: sizes by the names of a configuration's fields, and what single models need beside them."""

from __future__ import annotations

from typing import Any

__all__ = ["EXTRA", "OVERRIDES", "SIZES", "VOCABULARY"]

VOCABULARY = 263
"""A prime: no other size is taken for it."""

SIZES: dict[str, int] = {
    # the first expression that matches the whole name of a field with a whole number above 0 decides
    r"(?!(type|task_type|segment)_).*vocab_size(_per_layer_input)?": VOCABULARY,
    r"num_(hidden|encoder|decoder)?_?layers|(encoder|decoder)_layers|n_layers?|num_blocks|depth": 2,
    r"mamba_n(um)?_heads": 8,
    r"mamba_d_ssm|attention_hidden_size|hidden_size_global": 128,
    r".*kv_heads|.*num_key_value_heads|num_query_groups|linear_num_key_heads|kv_n_heads": 2,
    r"(.*_)?(num_)?(attention_)?heads|.*num_attention_heads|.*n_heads?": 4,
    r"hidden_dim|(hidden|d_model|dim_model|n_embd|emb_dim|embed_dim|embedding_dim)(_size)?|word_embed_proj_dim": 64,
    r"lru_width|embedding_size|(in|out)put_embedding_size|out_hidden_size|.*_embed_dim": 64,
    r"rotary_dim": 8,
    r"qk_head_dim": 32,
    r"(.*_)?head_(dim|size)|.*headdim|dim_head|(mamba_)?d_head|kv_channels|d_kv|qk_(nope|rope)_head_dim|v_head_dim": 16,
    r".*intermediate_size(_mlp)?|.*ffn_(dim|hidden_size)|d_inner|dim_ff|d_ff|dff|feed_forward_size|n_inner": 96,
    r"(?!.*(shared|per_tok)).*num_(local_)?experts|n_routed_experts|zero_expert_num": 4,
    r".*experts_per_tok(en)?|moe_topk|moe_k|moe_top_k": 2,
    r"n_group|topk_group|num_expert_group": 1,
    r".*max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length": 128,
    r"max_(source|target)_positions": 128,
    r".*_rank|.*lowrank|hidden_size_per_layer_input|router_hidden_size": 8,
    r".*state_size|mamba_d_state|(mamba_)?chunk_size": 8,
    r"(mamba_)?n_?groups": 2,
    r"sliding_window(_size)?|.*window_size|local_attention": 32,
    r"index_topk|encoder_hash_byte_group_vocab|(projector|vision)_(in|out)put_dim": 64,
    r"image_size": 16,
    r"patch_size|(spatial|temporal)_patch_size": 4,
}

_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_QWEN35_ROPE = _MROPE | {"mrope_section": [1, 1, 0], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
_SIGLIP = {"model_type": "siglip_vision_model"}
_IDS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
_QWEN_VISION = {"out_hidden_size": 64, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
_GEMMA4 = {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 32}

_LLAMA4 = {"num_hidden_layers": 2, "moe_layers": [1], "no_rope_layers": [1, 0]}
_DOTS3 = {"head_dim": 32, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 8}
_DOTS3 |= {"swa_kv_lora_rank": 8, "swa_qk_nope_head_dim": 16, "swa_head_dim": 32}
_QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
    "ple_layer_ids": [1],
    "ngram_vocab_size_base": 64,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "blt": {"use_cache": False, "global_config": {"hidden_size": 128}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v3": {"first_k_dense_replace": 1},
    "dots3_note_text": _DOTS3,
    "dots3_note": {
        "text_config": _DOTS3,
        "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64},
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
    },
    "emu3": {
        "vocabulary_map": {"<image>": 5},
        "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "codebook_size": 64},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_unified": {"text_config": _GEMMA4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": None},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": _LLAMA4,
    "llama4": {"text_config": _LLAMA4},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": _QWEN4,
    "qwen4_exp": {"text_config": _QWEN4, "vision_config": _QWEN_VISION, **_IDS},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds": False,
        "num_buckets": 4,
    },
    "rwkv": {"attention_hidden_size": 64},
    "xlm": {"causal": True},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
        "attention_head_dim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
    "qwen3_5": {"text_config": {"rope_parameters": _QWEN35_ROPE}, "vision_config": _QWEN_VISION, **_IDS},
    "qwen3_5_moe": {"text_config": {"rope_parameters": _QWEN35_ROPE}, "vision_config": _QWEN_VISION, **_IDS},
    "qwen3_vl": {"text_config": {"rope_parameters": _MROPE}, "vision_config": _QWEN_VISION, **_IDS},
    "qwen3_vl_moe": {"text_config": {"rope_parameters": _MROPE}, "vision_config": _QWEN_VISION, **_IDS},
    "qwen2_vl": {
        "text_config": {"rope_parameters": _MROPE},
        "vision_config": {"hidden_size": 64, "embed_dim": 32},
        **_IDS,
    },
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": _MROPE},
        "vision_config": {"fullatt_block_indexes": [1], "window_size": 16, "out_hidden_size": 64},
        **_IDS,
    },
}

EXTRA = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "aya_vision": "AyaVisionForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
    "bert": "BertForMaskedLM",
    "vit": "ViTForImageClassification",
    "clip": "CLIPModel",
}
"""Architectures that are not causal, or are not in transformers' table of these."""
