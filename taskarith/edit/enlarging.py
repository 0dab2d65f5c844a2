"""A model with more tokens than it has: rows that only a vector's fine-tune has are put below its own."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.operands import Operand, new_rows
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.vectors.vocabulary import UNION

__all__ = ["Enlarged", "enlarged"]


@dataclass(frozen=True)
class Enlarged:
    """A model that may have more rows than its files.

    :param base: The model; its new tensors lie in a file of their own.
    :param source: What brought the rows; empty if there are none.
    :param rows: How many there are.
    :param before: The tensors that got some, as the model has them.
    """

    base: Checkpoint
    source: str = ""
    rows: int = 0
    before: Mapping[str, TensorEntry] = field(default_factory=dict)

    def fingerprints(self, found: Mapping[str, str]) -> dict[str, str]:
        """Return the fingerprints of the model's own tensors, given those of what was read."""
        with TensorReader() as reader:
            return {**found, **{name: reader.fingerprint(entry) for name, entry in self.before.items()}}

    def remarks(self, tokenizer: Path | None) -> list[str]:
        """Say which rows were added, and where the output's tokenizer may not have their tokens.

        :param tokenizer: The folder whose tokenizer the output gets; None if that of the model stays.
        """
        if not self.source:
            return []
        found = f"{self.rows} rows of new tokens in {name_some(list(self.before))} are those of {self.source}"
        if tokenizer is not None:
            return [found]
        return [f"{found}; the tokenizer stays that of {self.base.path}: --tokenizer FROM takes one with these tokens"]


@contextmanager
def enlarged(base: Checkpoint, operands: Sequence[Operand], vocab: str | None) -> Generator[Enlarged]:
    """Put the rows that only one of the vectors has below those of the model, in the model's dtype.

    :param base: The model.
    :param operands: The vectors, opened for it; of those that are taken away no row is taken.
    :param vocab: ``union``, or else the model stays as it is.
    :raises UsageError: More than one vector has such rows.
    :raises MismatchError: Values overflow in the model's dtype.
    """
    if vocab != UNION:
        yield Enlarged(base)
        return
    with tempfile.TemporaryDirectory(prefix="taskarith-") as folder:
        yield _enlarge(base, operands, Path(folder))


def _enlarge(base: Checkpoint, operands: Sequence[Operand], folder: Path) -> Enlarged:
    brought = {one.vector.name: found for one in operands if (found := dict(_brought(base, one)))}
    if not brought:
        return Enlarged(base)
    if len(brought) > 1:
        raise UsageError(
            f"{name_some(list(brought))} all have rows of new tokens, and nothing says which are the same tokens",
            "Apply one of them with --vocab union, and the next to the result.",
        )
    [(source, found)] = brought.items()
    with TensorReader() as reader:
        longer = {
            name: _joined(base.tensors[name], rows, folder / f"{number}.rows", reader)
            for number, (name, rows) in enumerate(found.items())
        }
    tensors = {name: longer.get(name, entry) for name, entry in base.tensors.items()}
    shards = tuple(replace(one, tensors=tuple(tensors[entry.name] for entry in one.tensors)) for one in base.shards)
    before = {name: base.tensors[name] for name in longer}
    sizes = {base.tensors[name].shape[0]: entry.shape[0] for name, entry in longer.items()}
    larger = replace(base, tensors=tensors, shards=shards, config=_resized(base.config, sizes))
    return Enlarged(larger, source, max(rows.shape[0] for rows in found.values()), before)


def _brought(base: Checkpoint, operand: Operand) -> Iterator[tuple[str, TensorEntry]]:
    """Give out the rows that a vector has below the last one of the model."""
    found = new_rows(operand.vector)
    if operand.role or operand.coefficient <= 0:
        return
    for name, entry in base.tensors.items():
        delta = operand.delta_of(name)
        if delta is not None and delta in found:
            known = operand.vector.shapes[delta][0]
            if entry.shape[0] != known:
                raise MismatchError(
                    f"{base.path} has {entry.shape[0]} rows of {name}, the base of {operand.vector.name} has {known}: "
                    "nothing says which rows beyond these are the same tokens",
                    "Use --vocab intersection, which edits the rows that all have.",
                )
            yield name, found[delta]


def _joined(entry: TensorEntry, rows: TensorEntry, path: Path, reader: TensorReader) -> TensorEntry:
    import numpy as np  # late: hardly any edit has new rows

    from taskarith.arithmetic.encoding import decode, encode

    values = decode(bytes(reader.read(rows, 0, rows.nbytes)), rows.dtype)
    data = encode(values, entry.dtype)
    if not np.isfinite(decode(data, entry.dtype)).all():
        raise MismatchError(
            f"the new rows of {entry.name} are not finite in {entry.dtype}",
            "Use --vocab intersection, which leaves them out.",
        )
    with path.open("wb") as file:
        for piece in reader.pieces(entry):
            file.write(piece)
        file.write(data)
    return replace(entry, shape=(entry.shape[0] + rows.shape[0], *entry.shape[1:]), path=path, offset=0, state=())


def _resized(config: Mapping[str, Any], sizes: Mapping[int, int]) -> dict[str, Any]:
    """Return a configuration with the new numbers of tokens, in its sections, too."""
    return {
        key: _resized(value, sizes)
        if isinstance(value, dict)
        else sizes.get(value, value)
        if key == "vocab_size" and isinstance(value, int)
        else value
        for key, value in config.items()
    }
