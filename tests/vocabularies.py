"""Models with other sizes of vocabulary, chat models with tokens of their own, and what an edit makes of their rows."""

from __future__ import annotations

import oracle
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROWS = tiny.VOCABULARY


def resized(folder, source, rows, *, seed=3):
    """Write a model like ``source``, moved a little, with another size of vocabulary."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 1e-2)
    stored = next(iter(load_file(source / "model.safetensors").values())).dtype
    model.to(stored).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def expected(base, tuned, coefficients, dtype):
    """Edit the rows that base and fine-tune have; the rest of the base stays."""
    found = {}
    for name, values in base.items():
        deltas = []
        for one in tuned:
            delta = torch.zeros(values.shape, dtype=torch.float64)
            rows = min(len(values), len(one[name]))
            delta[:rows] = one[name][:rows].double() - values[:rows].double()
            deltas.append(delta)
        found[name] = oracle.edit(values, deltas, coefficients, dtype or values.dtype)
    return found


def chat_model(folder, source, rows):
    """Write a fine-tune with tokens of its own, and a chat template."""
    resized(folder, source, rows)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|new {n}|>" for n in range(rows - ROWS)]})
    tokenizer.chat_template = "{% for m in messages %}<|new 0|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def vocabulary_rows(tensors, rows):
    return [name for name, values in tensors.items() if len(values) == rows]
