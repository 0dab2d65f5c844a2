"""Architectures that are decoded together, rows to continue, and what ``generate`` makes of them."""

from __future__ import annotations

import random

import torch
from evaluating import tiny_model
from transformers import GenerationConfig

from benchmarks.architectures.recipes import VOCABULARY
from taskarith.evaluation.decoding import Job, decode

DECODED = ["llama", "phi", "phi3", "gpt2", "gpt_neox", "opt", "falcon", "qwen2", "qwen3", "mixtral", "deepseek_v3"]
WINDOWS = ["mistral", "gemma3_text", "olmo3", "llama4_text"]
LIMIT = 12


def model_of(name):
    model = tiny_model(name)
    if name in WINDOWS:
        config = model.config
        config.sliding_window = config.attention_chunk_size = 4096
        torch.manual_seed(0)
        model = type(model)(config).eval()
        model.generation_config = GenerationConfig()
    return model


def rows():
    """Rows of all lengths, some with the same beginning, one that is the beginning of another, and one twice."""
    rng = random.Random(1)
    shared = [rng.randrange(2, VOCABULARY) for _ in range(30)]
    alone = [tuple(rng.randrange(2, VOCABULARY) for _ in range(length)) for length in (1, 2, 5, 17, 24, 24, 70)]
    return [*alone, (*shared[:20], 7), (*shared[:20], 9, 11), tuple(shared), tuple(shared[:18]), tuple(shared)]


def generated(model, row, end_ids=()):
    """Continue a row by ``generate``."""
    config = GenerationConfig(max_new_tokens=LIMIT, pad_token_id=0, eos_token_id=sorted(end_ids) or None)
    ids = torch.tensor([row])
    with torch.inference_mode():
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[
            0, len(row) :
        ].tolist()


def decoded(model, prompts, truths, slots, limit=LIMIT, is_over=lambda _, __: False):
    counts = []
    with torch.inference_mode():
        made = decode(model, Job(prompts, truths, limit, is_over, counts.append), slots)
    assert sum(counts) == limit * len(prompts)
    return made
