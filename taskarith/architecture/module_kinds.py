"""Which kind of module each tensor of a model belongs to."""

from __future__ import annotations

import re

from taskarith.architecture.layout import Architecture
from taskarith.architecture.lookup import architectures_of
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.progress import SILENT, Listener

__all__ = ["KINDS", "kinds_of"]

KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")
"""All kinds, in the order in which they are shown."""

_HEAD = re.compile(r"lm_head|embed_out")
_NORM = re.compile(r"(?:.*_)?(?:layer|rms)?norms?\d*(?:_.*)?|ln(?:_?\w+)?")
_EMBEDDING = re.compile(r"embed.*|.*embeddings?|w[tp]e")
_ATTENTION = re.compile(r".*att(?:n|ention).*|(?:[qkvo]|qkv|out)_proj|query_key_value")
_MLP = re.compile(r".*(?:mlp|ffn|feed_?forward|moe|experts?).*|(?:gate|up|down|gate_up)_proj|fc\d|c_fc|w[123]")


def kinds_of(checkpoint: Checkpoint, listener: Listener = SILENT) -> dict[str, str]:
    """Return one of ``KINDS`` for each tensor; biases belong to their module, norms of attention heads to the norms.

    Embeddings, the output layer and norms are what the model's class says that they are; attention and MLP, and all
    where the class is not known, are told by names.
    """
    architecture = next(architectures_of(checkpoint, listener))
    return {name: _kind(name, architecture) for name in checkpoint.tensors}


def _kind(tensor: str, architecture: Architecture) -> str:
    pieces = architecture.stored.get(tensor, ())
    parameter = pieces[0].parameter if pieces else tensor
    if architecture.model_class and parameter in architecture.parameters:
        kind = architecture.parameters[parameter].kind
        if kind in {"embedding", "norm"}:
            return kind
        shared = {parameter, *(name for name, to in architecture.ties.items() if to == parameter)}
        head = architecture.roles.get("head", "").rpartition(".")[0]
        if any(name.rpartition(".")[0] == head for name in shared):
            return "head"
    return _by_name(parameter)


def _by_name(name: str) -> str:
    parts = name.lower().split(".")
    patterns = {"head": _HEAD, "norm": _NORM, "embedding": _EMBEDDING, "attention": _ATTENTION, "mlp": _MLP}
    return next((kind for kind, pattern in patterns.items() if any(map(pattern.fullmatch, parts))), "other")
