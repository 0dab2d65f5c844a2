"""Names of tensors by which models are known whose class is not, and buffers."""

from __future__ import annotations

import re

__all__ = [
    "EMBEDDING",
    "EXPERT",
    "FREQUENCIES",
    "FUSED_EXPERTS",
    "HEAD",
    "MARKS",
    "MASK",
    "MASKED_BIAS",
    "MODULE_KINDS",
    "NO_BIAS",
    "POSITION_TABLES",
    "QUANTISED",
]

_HEADS = r"lm_head|embed_out"

MODULE_KINDS = {
    "head": re.compile(_HEADS),
    "norm": re.compile(r"(?:.*_)?(?:layer|rms)?norms?\d*(?:_.*)?|ln(?:_?\w+)?"),
    "embedding": re.compile(r"embed.*|.*embeddings?|w[tp]e"),
    "attention": re.compile(r".*att(?:n|ention).*|(?:[qkvo]|qkv|out)_proj|query_key_value"),
    "mlp": re.compile(r".*(?:mlp|ffn|feed_?forward|moe|experts?).*|(?:gate|up|down|gate_up)_proj|fc\d|c_fc|w[123]"),
}
"""One part of the name of each kind of module, in lower case; the first kind that fits counts."""

EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|embed_in|word_embeddings)\.weight")
HEAD = re.compile(rf"(?:.*\.)?(?:{_HEADS})\.weight")
"""The input embedding and the output layer."""

EXPERT = re.compile(r"(?P<module>.*\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight")
FUSED_EXPERTS = (
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("gate_up_proj", ("w1", "w3")),
    ("down_proj", ("down_proj",)),
    ("down_proj", ("w2",)),
)
"""What transformers 5 calls the parameters of all experts that it makes of weights that are stored one by one."""

FREQUENCIES = re.compile(r"(?:.*\.)?(?:\w+_)?inv_freq")
POSITION_TABLES = re.compile(r"(?:.*\.)?(?:(?:cos|sin)_cached|freqs_cis|embed_positions\.weights)")
MARKS = re.compile(r"(?:.*\.)?(?:version|_float_tensor)")
MASK = re.compile(r"(?:.*\.)?\w*(?:attn|attention)\.(?:bias|\w*mask)|(?:.*\.)?\w*mask")
MASKED_BIAS = re.compile(r"(?:.*\.)?masked_bias")
NO_BIAS = re.compile(r"(?:.*\.)?final_logits_bias")
QUANTISED = re.compile(r"(?:.*\.)?\w*(?:weight|qzeros|blocks|scales)\w*")
"""Names of integers that may stand for weights: those of quantised models."""
