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
    pairs = [
        (architecture.tensor_of(one) or one, architecture.tensor_of(to) or to) for one, to in architecture.ties.items()
    ]
    stands_for: dict[str, str] = {}  # what others are tied to and the files lack: the first of these that they have
    for name, source in pairs:
        if source not in base.tensors and name in base.tensors:
            stands_for.setdefault(source, name)
    groups: dict[str, list[str]] = {}
    for name, target in pairs:
        source = stands_for.get(target, target)
        other = target if name == source else name
        if source not in base.tensors or not ({other, source} & {*only}):
            continue
        if other in base.tensors:
            first, second = base.tensors[source], base.tensors[other]
            if first.shape != second.shape or reader.fingerprint(first) != reader.fingerprint(second):
                continue
        groups.setdefault(source, []).append(other)
    return {source: tuple(others) for source, others in groups.items()}
