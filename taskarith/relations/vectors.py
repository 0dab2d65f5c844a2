"""The vectors to relate: opened against one base, named and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors
from taskarith.checkpoints.reader import combine_fingerprints, file_states
from taskarith.checkpoints.team import ALONE, Team
from taskarith.edit.operands import Operand, open_operands, read_bases
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_operand
from taskarith.vectors.bases import ChosenBase
from taskarith.vectors.open import CommonBase, choose_base
from taskarith.vectors.vector import BaseRecord

__all__ = ["Related", "open_related"]


@dataclass(frozen=True)
class Related:
    """Task vectors on one base.

    :param names: A short unique name of each.
    :param references: The vectors as the user named them.
    :param operands: The opened vectors, in that order.
    :param model: The base, as the user named it or as recorded.
    :param checkpoint: Its files.
    :param chosen: How the base was chosen.
    :param remarks: Objections to comparing the vectors.
    """

    names: tuple[str, ...]
    references: tuple[OperandRef, ...]
    operands: tuple[Operand, ...]
    model: str
    checkpoint: Checkpoint
    chosen: ChosenBase
    remarks: tuple[str, ...]

    def check_base(self, listener: Listener) -> None:
        """Compare the base with a vector's record, unless the user named it.

        :raises MismatchError: It is a different model.
        """
        if not self.chosen.is_named:
            self.chosen.check(fingerprint_tensors(self.checkpoint, listener))

    def states(self) -> dict[str, list[int]]:
        """Return the states of the vectors' files, to notice changes."""
        return file_states(set().union(*(operand.vector.files for operand in self.operands)))


def open_related(
    vectors: Sequence[str],
    model: str | None,
    listener: Listener,
    names: Sequence[str] | None = None,
    team: Team = ALONE,
) -> Related:
    """Open vectors of any kind against their base.

    :param vectors: Vectors, each with an optional base and coefficient.
    :param model: Their base; None for the first one given or recorded with a vector.
    :param listener: Receives notes on downloads.
    :param names: Names of the vectors; None to derive them from their paths.
    :param team: The processes that make this call; the first one downloads.
    :raises UsageError: No base is known.
    :raises VectorError: A vector is missing or of a kind that cannot be used.
    :raises MismatchError: A vector does not fit the base, or the model it was made from is missing.
    """
    if team.size > 1:
        team.by_first(lambda: bool(open_related(vectors, model, listener, names)))
        listener = SILENT
    references = tuple(parse_operand(text) for text in vectors)
    chosen = choose_base(model, references, "Give it with --model MODEL.", listener)
    base_name = model or str(BaseRecord.of(chosen.resolved))
    checkpoint = chosen.open()
    operands = tuple(open_operands(references, checkpoint, listener, common=CommonBase("--model", model is not None)))
    read_bases(operands, checkpoint, listener)
    named = tuple(
        _named(reference, operand, base_name) for reference, operand in zip(references, operands, strict=True)
    )
    short = tuple(names) if names else _short_names(references)
    remarks = _base_mismatches(short, _start_points(operands, checkpoint, base_name, listener))
    return Related(short, named, operands, base_name, checkpoint, chosen, tuple(remarks))


def _named(reference: OperandRef, operand: Operand, model: str) -> OperandRef:
    """Return the reference of a fine-tune with the base given for all vectors."""
    is_named = operand.own is not None and operand.own.is_model and operand.own.is_named
    return replace(reference, base=model) if is_named and not reference.base else reference


def _start_points(
    operands: Sequence[Operand], checkpoint: Checkpoint, model: str, listener: Listener
) -> list[BaseRecord | None]:
    """Return the model each vector starts from; the base is read only if some vector starts elsewhere."""
    starts = [operand.base for operand in operands]
    from_base = [operand.own is not None and operand.own.is_model for operand in operands]
    if all(from_base) or not any(from_base):
        return starts
    base = BaseRecord(model, None, combine_fingerprints(fingerprint_tensors(checkpoint, listener)))
    return [base if is_model else start for is_model, start in zip(from_base, starts, strict=True)]


def _short_names(references: Sequence[OperandRef]) -> tuple[str, ...]:
    """Return the last components of the paths, numbered if equal."""
    names: list[str] = []
    for reference in references:
        path = Path(reference.name)
        name = path.stem if path.suffix == ".safetensors" else path.name or str(path)
        name += "" if reference.coefficient == 1 else f":{reference.coefficient:g}"
        number = 1 + sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(name if number == 1 else f"{name}#{number}")
    return tuple(names)


def _base_mismatches(names: Sequence[str], records: Sequence[BaseRecord | None]) -> list[str]:
    """Remark on vectors made from different models."""
    known = [(name, record) for name, record in zip(names, records, strict=True) if record and record.fingerprint]
    return [
        f"{name} was made from {record}, {known[0][0]} from {known[0][1]}, but the theory assumes vectors of one base"
        for name, record in known[1:]
        if record.fingerprint != known[0][1].fingerprint
    ]
