"""Which kind of module a tensor belongs to, by its name."""

from __future__ import annotations

import re

__all__ = ["KINDS", "kind_of"]

KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")
"""All kinds, in the order in which they are shown."""

_HEAD = re.compile(r"lm_head|embed_out")
_NORM = re.compile(r"(?:.*_)?(?:layer|rms)?norms?\d*(?:_.*)?|ln(?:_?\w+)?")
_EMBEDDING = re.compile(r"embed.*|.*embeddings?|w[tp]e")
_ATTENTION = re.compile(r".*att(?:n|ention).*|(?:[qkvo]|qkv|out)_proj|query_key_value")
_MLP = re.compile(r".*(?:mlp|ffn|feed_?forward|moe|experts?).*|(?:gate|up|down|gate_up)_proj|fc\d|c_fc|w[123]")


def kind_of(tensor: str) -> str:
    """Return one of ``KINDS``; biases belong to their module, and the norms of attention heads to the norms."""
    parts = tensor.lower().split(".")
    patterns = {"head": _HEAD, "norm": _NORM, "embedding": _EMBEDDING, "attention": _ATTENTION, "mlp": _MLP}
    return next((kind for kind, pattern in patterns.items() if any(map(pattern.fullmatch, parts))), "other")
