"""An architecture guessed from the names of a model's files, for models that transformers cannot build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from taskarith.architecture.layout import Architecture, Parameter, Piece
from taskarith.architecture.names import EMBEDDING, EXPERT, FUSED_EXPERTS, HEAD
from taskarith.checkpoints.checkpoint import Checkpoint

__all__ = ["guess_architecture"]


def guess_architecture(checkpoint: Checkpoint, remark: str = "") -> Architecture:
    """Take every stored tensor as a parameter of the same name, and experts stored one by one as fused.

    :param checkpoint: The model folder.
    :param remark: Why the architecture has to be guessed.
    """
    stored = {name: (Piece(name, 0, _rows(entry.shape)),) for name, entry in checkpoint.tensors.items()}
    parameters = {name: Parameter(entry.shape, _kind(name, entry.shape)) for name, entry in checkpoint.tensors.items()}
    for parameter, shape, pieces in _fused_experts(checkpoint):
        parameters[parameter] = Parameter(shape, "other")
        stored |= {name: (piece,) for name, piece in pieces.items()}
    roles = {}
    for role, pattern in (("embedding", EMBEDDING), ("head", HEAD)):
        matches = [name for name in checkpoint.tensors if pattern.fullmatch(name)]
        if len(matches) == 1:
            roles[role] = matches[0]
    return Architecture("", "", parameters, stored, _ties(checkpoint, roles), roles, remark)


def _ties(checkpoint: Checkpoint, roles: Mapping[str, str]) -> dict[str, str]:
    """Return the tie of head and embedding, unless the configuration excludes it."""
    nested = checkpoint.config.get("text_config")
    is_tied = ((nested if isinstance(nested, dict) else {}) | checkpoint.config).get("tie_word_embeddings")
    if "embedding" not in roles or is_tied is False or ("head" in roles and is_tied is not True):
        return {}
    head = roles.get("head", "embed_out.weight" if "embed_in" in roles["embedding"] else "lm_head.weight")
    return {head: roles["embedding"]}


def _kind(name: str, shape: tuple[int, ...]) -> str:
    if EMBEDDING.fullmatch(name):
        return "embedding"
    return "linear" if len(shape) == 2 and name.endswith(".weight") else "other"


def _fused_experts(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...], dict[str, Piece]]]:
    """Yield the fused parameters of experts stored one by one, with their shapes and pieces."""
    experts: dict[str, dict[str, dict[int, str]]] = {}
    for name in checkpoint.tensors:
        if match := EXPERT.fullmatch(name):
            experts.setdefault(match["module"], {}).setdefault(match["part"], {})[int(match["number"])] = name
    for module, parts in experts.items():
        for parameter, wanted in FUSED_EXPERTS:
            if not all(part in parts and sorted(parts[part]) == list(range(len(parts[wanted[0]]))) for part in wanted):
                continue
            pieces: dict[str, Piece] = {}
            fused = f"{module}.{parameter}"
            sizes = [checkpoint.tensors[parts[part][0]].shape for part in wanted]
            if any(len(size) != 2 for size in sizes):
                continue
            start = 0
            for part, (rows, _) in zip(wanted, sizes, strict=True):
                span = (start, start + rows, 1) if len(wanted) > 1 else None
                pieces |= {
                    name: Piece(fused, 0, rows, span, None, False, number) for number, name in parts[part].items()
                }
                start += rows
            yield fused, (len(parts[wanted[0]]), start, sizes[0][1]), pieces


def _rows(shape: tuple[int, ...]) -> int:
    return shape[-2] if len(shape) in (2, 3) else shape[0] if shape else 1
