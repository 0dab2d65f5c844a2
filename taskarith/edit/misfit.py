"""Why a vector does not fit the model that it is applied to, and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import FLOAT_DTYPES
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.buffers import is_buffer
from taskarith.vectors.one_sided import IGNORE_BUFFERS, explain_names, heads_of_their_own
from taskarith.vectors.vector import Vector

__all__ = ["absent_error", "check_editable", "unknown_error"]


def check_editable(vector: Vector, base: Checkpoint, names: Iterable[str]) -> None:
    """Refuse tensors of a dtype that arithmetic is not defined on.

    :raises MismatchError: The vector moves one.
    """
    odd = [f"{name} ({base.tensors[name].dtype})" for name in names if not base.is_editable(name)]
    if odd:
        raise MismatchError(
            f"{len(odd)} tensors that {vector.name} moves are of a dtype in {base.path} that cannot be edited: "
            f"{name_some(odd)}",
            f"Edit a model whose weights are {', '.join(FLOAT_DTYPES)}, or float8 matrices with scales.",
        )


def absent_error(vector: Vector, base: Checkpoint, names: Sequence[str]) -> MismatchError:
    """Return the error that says which deltas have no tensor in the model."""
    return _error(f"{len(names)} tensors of {vector.name} are not in {base.path}: {name_some(names)}", vector, base)


def unknown_error(vector: Vector, base: Checkpoint, names: Sequence[str]) -> MismatchError:
    """Return the error that says of which tensors of the model a vector says nothing."""
    message = f"{len(names)} tensors of {base.path} are unknown to {vector.name}: {name_some(names)}"
    with TensorReader() as reader:
        heads = heads_of_their_own(base, names, vector.known or (), reader)
        are_buffers = all(is_buffer(base.tensors[name], reader) for name in names)
    if are_buffers:
        return MismatchError(
            f"{message}; all of them are buffers, which are calculated and not trained",
            f"{IGNORE_BUFFERS}, an option of apply, leaves them as the model has them.",
        )
    if heads:
        return MismatchError(
            f"{message}; {base.path} is untied, its head is not a copy of {', '.join(dict.fromkeys(heads.values()))}",
            "The vector was made from tied models and has one delta for both: extract it from untied ones.",
        )
    return _error(message, vector, base)


def _error(message: str, vector: Vector, base: Checkpoint) -> MismatchError:
    """Add to a message that the names differ by a rule, if they do."""
    with TensorReader() as reader:
        buffers = [
            name for name, entry in base.tensors.items() if name not in vector.shapes and is_buffer(entry, reader)
        ]
    found = explain_names(base, buffers, vector.shapes, ())
    if found is not None:
        return MismatchError(f"{message}; {found[0]}", found[1])
    return MismatchError(
        message, f"It was made from {vector.base or 'another model'}: apply it to a model of that architecture."
    )
