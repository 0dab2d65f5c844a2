"""The decoder layers of a language model, in whatever architecture."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

__all__ = ["layer_list"]


def layer_list(model: PreTrainedModel) -> str | None:
    """Return the name of the list of a model's decoder layers, or None if its decoder is not one list of layers."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()} if decoder is not None else set()
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and id(module) in inside
    ]
    return lists[0] if len(lists) == 1 else None
