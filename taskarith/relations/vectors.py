"""The vectors that are related: opened against one base, named, and checked for what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors
from taskarith.checkpoints.reader import combine_fingerprints, file_states
from taskarith.edit.operands import Operand, open_operands, read_bases
from taskarith.progress import Listener
from taskarith.spec import OperandRef, parse_operand
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.open import CommonBase, choose_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["Related", "open_related"]


@dataclass(frozen=True)
class Related:
    """Task vectors on one base.

    :param names: A short and different name of each.
    :param references: As the user named them.
    :param operands: Opened, in that order.
    :param model: The base, as the user named it or as it is recorded.
    :param checkpoint: Its files.
    :param chosen: How it was found.
    :param remarks: What stands against comparing them.
    """

    names: tuple[str, ...]
    references: tuple[OperandRef, ...]
    operands: tuple[Operand, ...]
    model: str
    checkpoint: Checkpoint
    chosen: ChosenBase
    remarks: tuple[str, ...]

    def check_base(self, listener: Listener) -> None:
        """Read the base, and compare it with what a vector records, if that is how it was found.

        :raises MismatchError: It is another model.
        """
        if not self.chosen.is_named:
            self.chosen.check(fingerprint_tensors(self.checkpoint, listener))

    def states(self) -> dict[str, list[int]]:
        """Return what changes when a vector changes."""
        return file_states(set().union(*(operand.vector.files for operand in self.operands)))


def open_related(
    vectors: Sequence[str], model: str | None, listener: Listener, names: Sequence[str] | None = None
) -> Related:
    """Open vectors of any form against their base.

    :param vectors: Vectors, each with an optional base and coefficient.
    :param model: Their base; None takes the first that one of them is given with or records.
    :param listener: Receives notes about downloads.
    :param names: Of the vectors; None makes names of their paths.
    :raises UsageError: No base is known.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the model that it was made from is not found.
    """
    references = tuple(parse_operand(text) for text in vectors)
    chosen = choose_base(model, references, "Name it with --model MODEL.", listener)
    found = model or str(BaseRecord.of(chosen.resolved))
    checkpoint = chosen.open()
    operands = tuple(open_operands(references, checkpoint, listener, common=CommonBase("--model", model is not None)))
    read_bases(operands, checkpoint, listener)
    named = tuple(_named(reference, one, found) for reference, one in zip(references, operands, strict=True))
    short = tuple(names) if names else _short_names(references)
    remarks = _strangers(short, _starts(operands, checkpoint, found, listener))
    return Related(short, named, operands, found, checkpoint, chosen, tuple(remarks))


def _named(reference: OperandRef, operand: Operand, model: str) -> OperandRef:
    """Return a fine-tune with the base that was named for all vectors."""
    is_named = operand.own is not None and operand.own.is_model and operand.own.is_named
    return replace(reference, base=model) if is_named and not reference.base else reference


def _starts(
    operands: Sequence[Operand], checkpoint: Checkpoint, model: str, listener: Listener
) -> list[BaseRecord | None]:
    """Return the model that each vector starts from; where that is the base, it is read if there is something else."""
    starts = [one.base for one in operands]
    itself = [one.own is not None and one.own.is_model for one in operands]
    if all(itself) or not any(itself):
        return starts
    base = BaseRecord(model, None, combine_fingerprints(fingerprint_tensors(checkpoint, listener)))
    return [base if is_model else start for is_model, start in zip(itself, starts, strict=True)]


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
