"""Models whose vocabularies differ in size: which tensors are concerned, and the rows that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import UsageError

__all__ = [
    "INTERSECTION",
    "UNION",
    "check_vocab",
    "differ_in_rows",
    "first_rows",
    "is_vocabulary",
    "last_rows",
    "token_rows",
]

INTERSECTION, UNION = "intersection", "union"
"""The rows that both models have; beside them those that only the fine-tune has, as it has them."""


def check_vocab(vocab: str | None) -> None:
    """Refuse an unknown way of dealing with vocabularies of different sizes.

    :raises UsageError: It is neither of the two, nor None, which refuses such models.
    """
    if vocab not in {None, INTERSECTION, UNION}:
        raise UsageError(f"unknown vocab '{vocab}'", f"Choose {INTERSECTION} or {UNION}, or leave it out.")


def differ_in_rows(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Return whether two shapes differ, and in the first dimension alone."""
    return bool(first) and bool(second) and first != second and first[1:] == second[1:]


def is_vocabulary(checkpoint: Checkpoint, name: str) -> bool:
    """Return whether a tensor has a row for each token: as many as the configuration says that there are."""
    shape = checkpoint.tensors[name].shape
    return bool(shape) and shape[0] in _vocabulary_sizes(checkpoint)


def token_rows(checkpoint: Checkpoint) -> frozenset[int]:
    """Return how many rows embeddings, heads and their biases can have: one for each token.

    That is what the configuration says, and the most rows that a matrix has, since it does not always say it.
    """
    most = max((entry.shape[0] for entry in checkpoint.tensors.values() if len(entry.shape) == 2), default=0)
    return frozenset({most, *(rows for rows in _vocabulary_sizes(checkpoint) if isinstance(rows, int))})


def first_rows(entry: TensorEntry, rows: int) -> TensorEntry:
    """Return the first rows of a tensor, as a tensor; they lie at its beginning."""
    return replace(entry, shape=(min(rows, entry.shape[0]), *entry.shape[1:])) if entry.shape else entry


def last_rows(entry: TensorEntry, start: int) -> TensorEntry:
    """Return the rows of a tensor from one on, as a tensor; they lie at its end."""
    rest = replace(entry, shape=(max(entry.shape[0] - start, 0), *entry.shape[1:]))
    return replace(rest, offset=entry.offset + entry.nbytes - rest.nbytes)


def _vocabulary_sizes(checkpoint: Checkpoint) -> list[Any]:
    sections = [checkpoint.config, *(part for part in checkpoint.config.values() if isinstance(part, Mapping))]
    return [section.get("vocab_size") for section in sections]
