"""Models whose vocabularies differ in size: which tensors are concerned, and the rows that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry

__all__ = ["differ_in_rows", "first_rows", "is_vocabulary"]


def differ_in_rows(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Return whether two shapes differ, and in the first dimension alone."""
    return bool(first) and bool(second) and first != second and first[1:] == second[1:]


def is_vocabulary(checkpoint: Checkpoint, name: str) -> bool:
    """Return whether a tensor has a row for each token: as many as the configuration says that there are."""
    sections = [checkpoint.config, *(part for part in checkpoint.config.values() if isinstance(part, Mapping))]
    shape = checkpoint.tensors[name].shape
    return bool(shape) and shape[0] in {section.get("vocab_size") for section in sections}


def first_rows(entry: TensorEntry, rows: int) -> TensorEntry:
    """Return the first rows of a tensor, as a tensor; they lie at its beginning."""
    return replace(entry, shape=(min(rows, entry.shape[0]), *entry.shape[1:])) if entry.shape else entry
