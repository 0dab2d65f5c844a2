"""The kind of module that each tensor of a model belongs to."""

from __future__ import annotations

from taskarith.architecture.layout import Architecture
from taskarith.architecture.lookup import architectures_of
from taskarith.architecture.names import MODULE_KINDS
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.progress import SILENT, Listener

__all__ = ["KINDS", "kinds_of"]

KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")
"""All kinds, in the order of display."""


def kinds_of(checkpoint: Checkpoint, listener: Listener = SILENT) -> dict[str, str]:
    """Return one of ``KINDS`` for each tensor; biases belong to their module, norms of attention heads to the norms.

    Embeddings, the output layer and norms are known from the model's class; attention and MLP, and everything if the
    class is unknown, are recognised by name.
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
    return next((kind for kind, pattern in MODULE_KINDS.items() if any(map(pattern.fullmatch, parts))), "other")
