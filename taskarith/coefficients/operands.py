"""The vectors that are related: opened against one base, named, and checked for what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, open_checkpoint
from taskarith.checkpoints.reader import file_states
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.operands import Operand, open_operands
from taskarith.errors import CheckpointError, UsageError
from taskarith.progress import Listener
from taskarith.spec import OperandRef, parse_operand
from taskarith.vectors.form import BaseRecord
from taskarith.vectors.open import recorded_base

__all__ = ["Related", "open_related"]


@dataclass(frozen=True)
class Related:
    """Task vectors on one base.

    :param names: A short and different name of each.
    :param references: As the user named them.
    :param operands: Opened, in that order.
    :param model: The base, as the user or the vectors named it.
    :param checkpoint: Its files.
    :param remarks: What stands against comparing them.
    """

    names: tuple[str, ...]
    references: tuple[OperandRef, ...]
    operands: tuple[Operand, ...]
    model: str
    checkpoint: Checkpoint
    remarks: tuple[str, ...]

    def states(self) -> dict[str, list[int]]:
        """Return what changes when a vector changes."""
        return file_states(set().union(*(operand.vector.files for operand in self.operands)))


def open_related(
    vectors: Sequence[str], model: str | None, listener: Listener, names: Sequence[str] | None = None
) -> Related:
    """Open vectors of any form against their base.

    :param vectors: Vectors, each with an optional coefficient.
    :param model: Their base; None takes the first that one of them records.
    :param listener: Told about downloads.
    :param names: Of the vectors; None makes names of their paths.
    :raises UsageError: No base is known.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base.
    """
    references = tuple(parse_operand(text) for text in vectors)
    records = [recorded_base(reference.name, listener) for reference in references]
    found = model or next((str(record) for record in records if record is not None), None)
    if found is None:
        raise UsageError("no vector records its base", "Name it: taskarith relate ... --model MODEL")
    checkpoint = open_checkpoint(_resolve(found, model is None, listener))
    operands = tuple(open_operands(references, checkpoint, listener))
    short = tuple(names) if names else _short_names(references)
    return Related(short, references, operands, found, checkpoint, tuple(_strangers(short, records)))


def _resolve(name: str, is_recorded: bool, listener: Listener) -> Path:
    try:
        return resolve_model(name, listener).path
    except CheckpointError as error:
        if not is_recorded:
            raise
        raise CheckpointError(
            f"the base that a vector records is not found: {name}", "Name it with --model."
        ) from error


def _short_names(references: Sequence[OperandRef]) -> tuple[str, ...]:
    """Return the last parts of the paths, numbered where they are the same."""
    names: list[str] = []
    for reference in references:
        path = Path(reference.name)
        name = path.stem if path.suffix == ".safetensors" else path.name or str(path)
        name += "" if reference.coefficient == 1 else f":{reference.coefficient:g}"
        number = 1 + sum(one == name or one.startswith(f"{name}#") for one in names)
        names.append(name if number == 1 else f"{name}#{number}")
    return tuple(names)


def _strangers(names: Sequence[str], records: Sequence[BaseRecord | None]) -> list[str]:
    """Say which vectors start from other models: their differences are taken at different points."""
    known = [(name, record) for name, record in zip(names, records, strict=True) if record and record.fingerprint]
    return [
        f"{name} was made from {record}, {known[0][0]} from {known[0][1]}: they start at different points, "
        "and the theory is about vectors of one base"
        for name, record in known[1:]
        if record.fingerprint != known[0][1].fingerprint
    ]
