"""Whether a model's head repeats its embedding."""

from __future__ import annotations

import re
from collections.abc import Mapping

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader

__all__ = ["EMBEDDING", "HEAD", "is_tied", "only"]

EMBEDDING = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|embed_in|word_embeddings)\.weight")
"""Names of the weights of token embeddings."""

HEAD = re.compile(r"(?:.*\.)?(?:lm_head|embed_out)\.weight")
"""Names of the weights of heads."""


def only(tensors: Mapping[str, TensorEntry], pattern: re.Pattern[str]) -> str | None:
    """Return the tensor of a name, if there is exactly one."""
    found = [name for name in tensors if pattern.fullmatch(name)]
    return found[0] if len(found) == 1 else None


def is_tied(base: Checkpoint, embedding: str, head: str | None) -> bool:
    """Tell whether the head repeats the embedding.

    It does if it is not stored, unless the configuration denies it, or if the configuration says so and its bits agree.

    :param base: The checkpoint; both tensors are read if both are stored and said to be tied.
    :param embedding: A tensor of it.
    :param head: The head's tensor, or None if it has none.
    """
    nested = base.config.get("text_config")
    said = ((nested if isinstance(nested, dict) else {}) | base.config).get("tie_word_embeddings")
    if head is None or head not in base.tensors:
        return said is not False
    if said is not True:
        return False
    with TensorReader() as reader:
        return reader.fingerprint(base.tensors[embedding]) == reader.fingerprint(base.tensors[head])
