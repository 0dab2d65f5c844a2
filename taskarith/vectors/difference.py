"""Fine-tuned minus base, tensor by tensor: where the two sides come from, and the loop over their chunks."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from taskarith.arithmetic.calculator import Calculator, Recipe, Term
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, Input, filled_chunks
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import HashingTensor, TensorReader
from taskarith.checkpoints.writer import HashingWriter
from taskarith.errors import MismatchError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.lora.adapter import AdapterVector
from taskarith.vectors.pair import pair_checkpoints
from taskarith.vectors.vector import Difference, Factored, Packed, Stored, Stream
from taskarith.vectors.vocabulary import INTERSECTION, UNION, first_rows

__all__ = ["AdapterSource", "PairSource", "Subtrahend", "subtract"]


Subtrahend = TensorEntry | Packed | None
"""What is read to subtract: a tensor, one that is decoded, or None for zeros."""


class PairSource:
    """The deltas of a full fine-tune, with the check of what a coefficient of 1 gives back.

    ``shapes`` are the tensors that have a delta, ``tied`` those that only the base stores, ``files`` all that is read,
    ``ignored`` the buffers that only one side has.

    :param base: The base.
    :param finetuned: The fine-tune.
    :param ignore_buffers: Leave out buffers that only one of the two has.
    :param vocab: What is taken where vocabularies differ in size: ``intersection``, the rows that both have, or
        ``union``, all rows of the fine-tune, those that the base lacks as they are; None refuses that.
    :raises MismatchError: The two checkpoints do not correspond.
    """

    has_result = True

    def __init__(
        self, base: Checkpoint, finetuned: Checkpoint, *, ignore_buffers: bool = False, vocab: str | None = None
    ) -> None:
        pairing = pair_checkpoints(base, finetuned, ignore_buffers=ignore_buffers, shared_vocabulary=vocab is not None)
        self.ignored = pairing.ignored
        sides = {name: (base.tensors[name].shape, finetuned.tensors[name].shape) for name in pairing.floats}
        self.base_rows = {name: before[0] for name, (before, after) in sides.items() if before != after}
        lost = [name for name in self.base_rows if vocab == UNION and sides[name][1] < sides[name][0]]
        if lost:
            raise MismatchError(
                f"{finetuned.path} has fewer rows than {base.path} in {len(lost)} tensors: {name_some(lost)}",
                f"There is no difference where it has none: --vocab {INTERSECTION} takes the rows that both have.",
            )
        self.shapes = {name: shapes[1] if vocab == UNION else min(shapes) for name, shapes in sides.items()}
        self.tied = {name: to for name, to in pairing.tied.items() if name in base.tensors}
        self.files = {tensor.path for side in (base, finetuned) for tensor in side.tensors.values()}
        self._base, self._finetuned = base.tensors, finetuned.tensors
        self._others = (*pairing.others, *pairing.tied, *pairing.ignored, *self.base_rows)

    @cached_property
    def rest(self) -> dict[str, dict[str, str]]:
        """The fingerprints, by tensor and side, of what is not subtracted; it is read when they are first asked for."""
        sides = (("base", self._base), ("finetuned", self._finetuned))
        with TensorReader() as reader:
            return {
                name: {side: reader.fingerprint(found[name]) for side, found in sides if name in found}
                for name in self._others
            }

    def inputs(self, name: str) -> list[Subtrahend]:
        """Return what is subtracted: the base, and the fine-tune; of more or fewer rows than the delta the first."""
        rows = self.shapes[name][0] if name in self.base_rows else 0
        return [first_rows(side[name], rows) if rows else side[name] for side in (self._base, self._finetuned)]

    def recipe(self, name: str, dtype: str) -> Recipe:
        """Return what to calculate."""
        return Recipe((self._base[name].dtype, self._finetuned[name].dtype), (Term(1.0, 1),), dtype)

    def fingerprints(self, name: str, inputs: list[Input]) -> dict[str, str]:
        """Return the fingerprints of both sides, valid after the last element."""
        if name in self.base_rows:
            return self.rest[name]
        sides = [tensor.fingerprint() for tensor in inputs if isinstance(tensor, HashingTensor)]
        return dict(zip(("base", "finetuned"), sides, strict=True))

    def restricted(self, names: Iterable[str], fingerprints: Mapping[str, dict[str, str]]) -> PairSource:
        """Return the deltas of a few tensors; the fingerprints of all others are known."""
        part = copy(self)
        part.shapes = {name: self.shapes[name] for name in names}
        part.rest = {name: dict(found) for name, found in fingerprints.items() if name not in part.shapes}
        return part


class AdapterSource:
    """The merged deltas of a LoRA folder's targets; all other tensors of the base stay as they are."""

    has_result = False
    ignored: tuple[str, ...] = ()
    base_rows: Mapping[str, int] = {}

    def __init__(self, base: Checkpoint, path: Path, listener: Listener = SILENT) -> None:
        self._vector = AdapterVector(path, base, None, listener=listener)
        self.shapes, self.tied = dict(self._vector.shapes), dict(self._vector.tied)
        self.files = {*self._vector.files, *(tensor.path for tensor in base.tensors.values())}
        self._base = base.tensors

    @cached_property
    def rest(self) -> dict[str, dict[str, str]]:
        """The fingerprints of all tensors of the base, which are read when they are first asked for."""
        with TensorReader() as reader:
            return {name: {"base": reader.fingerprint(tensor)} for name, tensor in self._base.items()}

    def inputs(self, name: str) -> list[Subtrahend]:
        """Return what is subtracted: mostly zero, and the minuend is multiplied out."""
        match self._vector.delta(name):
            case Difference(finetuned, base):
                return [base, finetuned]
            case Stored(delta):
                return [None, delta]
            case Packed() as packed:
                return [None, packed]
        return [None]

    def recipe(self, name: str, dtype: str) -> Recipe:
        """Return what to calculate."""
        match self._vector.delta(name):
            case Factored(factors):
                return Recipe(("F64",), (Term(1.0, factors),), dtype)
            case Difference(finetuned, base):
                return Recipe((base.dtype, finetuned.dtype), (Term(1.0, 1),), dtype)
            case Stored(delta):
                return Recipe(("F64", delta.dtype), (Term(1.0, 1),), dtype)
            case Packed() as packed:
                return Recipe(("F64", packed.dtype), (Term(1.0, 1),), dtype)
        raise AssertionError(name)

    def fingerprints(self, name: str, inputs: list[Input]) -> dict[str, str]:
        """Return nothing more than ``rest``: what was fine-tuned has no tensors."""
        del name, inputs
        return {}


def _open(entry: Subtrahend, reader: TensorReader, elements: int) -> Input:
    if entry is None:
        return _Zeros()
    if isinstance(entry, Packed):
        return _Decoded(entry.open(reader))
    return HashingTensor(entry, reader) if entry.elements == elements else _Lengthened(entry, reader)


class _Zeros:
    """An input of nothing but zeros."""

    def read_into(self, out: memoryview) -> None:
        """Write zeros into all of ``out``."""
        out[:] = bytes(len(out))


class _Lengthened:
    """A tensor with fewer rows than the delta; zeros follow."""

    def __init__(self, entry: TensorEntry, reader: TensorReader) -> None:
        self._tensor, self._left = HashingTensor(entry, reader), entry.nbytes

    def read_into(self, out: memoryview) -> None:
        """Read the next elements into all of ``out``."""
        count = min(len(out), self._left)
        if count:
            self._tensor.read_into(out[:count])
        out[count:] = bytes(len(out) - count)
        self._left -= count


class _Decoded:
    """A stream of deltas as an input."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def read_into(self, out: memoryview) -> None:
        """Decode the next elements into all of ``out``."""
        self._stream.read_into(out, None)


def subtract(
    source: PairSource | AdapterSource,
    name: str,
    calculator: Calculator,
    reader: TensorReader,
    writer: HashingWriter,
    stop: threading.Event,
) -> dict[str, Any]:
    """Calculate and write one delta; return fingerprints of both sides and of the output, and what was found."""
    elements = math.prod(source.shapes[name])
    inputs = [_open(one, reader, elements) for one in source.inputs(name)]
    inexact, moved, squares, is_finite = 0, 0, 0.0, True
    for start, end in filled_chunks(calculator, inputs, elements, CHUNK_ELEMENTS, stop):
        data, finite, found = calculator.difference(start, end)
        writer.append(data)
        is_finite = is_finite and finite
        inexact, moved, squares = inexact + found.inexact, moved + found.moved, squares + found.squares
    found_all = {"inexact": inexact, "moved": moved, "squares": squares, "finite": is_finite}
    return source.rest.get(name, {}) | source.fingerprints(name, inputs) | {"output": writer.fingerprint()} | found_all
