"""Which stored tensors of a model repeat each other because its class ties them."""

from __future__ import annotations

from collections.abc import Collection

from taskarith.architecture.layout import Architecture
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader

__all__ = ["tied_tensors"]


def tied_tensors(
    base: Checkpoint, architecture: Architecture, reader: TensorReader, only: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return for each tensor that others are tied to those others, stored or not.

    Two parameters are tied if the class ties them and the files hold one of them only, or both with the same bits, as
    when transformers loads them.

    :param base: The checkpoint; of ties that concern ``only``, both tensors are read where both are stored.
    :param architecture: Its architecture.
    :param only: Stored tensors; what none of these belongs to is left out.
    """
    groups: dict[str, list[str]] = {}
    for parameter, other in architecture.ties.items():
        name = architecture.tensor_of(parameter) or parameter
        source = architecture.tensor_of(other) or other
        if source not in base.tensors and name in base.tensors:
            source, name = name, source
        if source not in base.tensors or not ({name, source} & {*only}):
            continue
        if name in base.tensors:
            first, second = base.tensors[source], base.tensors[name]
            if first.shape != second.shape or reader.fingerprint(first) != reader.fingerprint(second):
                continue
        groups.setdefault(source, []).append(name)
    return {source: tuple(others) for source, others in groups.items()}
