"""Write a packed task vector: all cores work out its blocks, which are appended in one order: the file is the same."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from taskarith.arithmetic.calculator import Calculator, Comparison
from taskarith.arithmetic.parallel import CHUNK_ELEMENTS, WORKERS, Workers, chunks, work_through
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.reader import TensorReader, hasher
from taskarith.checkpoints.writer import AppendedTensors, growing_file
from taskarith.progress import Listener
from taskarith.vectors.codecs.error import Loss
from taskarith.vectors.difference import AdapterSource, PairSource, Subtrahend
from taskarith.vectors.vector import Packed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Form", "Piece", "Turns", "each_piece", "most_packed", "packed_metadata", "write_packed"]

Source = PairSource | AdapterSource

_COMPRESSOR_SHARE, _BLOCK_BYTES = 256, 512
"""What cannot be compressed grows by a share, and by what frames and indices take in each block, at most."""

_LONGEST = -1.2345678901234567e-100
"""A number that takes as many characters as any."""


@dataclass(frozen=True)
class Piece:
    """A block of a delta while it is extracted; its buffers are valid until the next one.

    :param number: Of all blocks, from 0.
    :param name: The tensor.
    :param start: First element.
    :param stop: Element after the last.
    :param inputs: The bytes of the base and of the fine-tune; empty for an adapter.
    :param dtypes: Of these.
    :param delta: Bytes of the delta, in the dtype of the form.
    :param found: What is known about it.
    """

    number: int
    name: str
    start: int
    stop: int
    inputs: tuple[memoryview, ...]
    dtypes: tuple[str, ...]
    delta: memoryview
    is_finite: bool
    found: Comparison

    def values(self) -> np.ndarray:
        """Return the delta as a flat array, of float32 or float64."""
        import numpy as np

        return np.frombuffer(self.delta, "<f8" if len(self.delta) == 8 * (self.stop - self.start) else "<f4")


class Form(Protocol):
    """A way to pack deltas."""

    kind: str
    dtype: str
    """In which deltas are calculated."""
    options: dict[str, Any]
    """As the user gave them."""
    is_lossy: bool
    """Whether the numbers that are summed up are those of a ``Loss``."""

    def prepare(self, source: Source, names: Sequence[str], workers: Workers, listener: Listener) -> None:
        """Find out from all deltas what has to be known before the first block."""

    def most_bytes(self, source: Source) -> int:
        """Return how many bytes all blocks have at most; raises what ``prepare`` does, as far as headers show it."""

    def decoded(self, name: str) -> str:
        """Return the dtype that a delta is decoded to, once the source has been looked at."""

    def encode(self, piece: Piece, stop: threading.Event) -> tuple[bytes, dict[str, float]]:
        """Return the bytes of a block, and numbers that are summed up by tensor; anything once ``stop`` is set."""


class Turns:
    """Lets the pieces of a task list pass one after the other, whichever thread has them."""

    def __init__(self) -> None:
        self._next, self._changed = 0, threading.Condition()

    @contextmanager
    def of(self, number: int, stop: threading.Event) -> Generator[bool, None, None]:
        """Wait until all pieces before this one have passed; gives False if the run was given up meanwhile."""
        with self._changed:
            while self._next != number and not stop.is_set():
                self._changed.wait(0.1)
        yield not stop.is_set()
        with self._changed:
            self._next = number + 1
            self._changed.notify_all()


def each_piece(
    source: Source,
    names: Sequence[str],
    dtype: str,
    do: Callable[[Piece, threading.Event], None],
    listener: Listener,
    what: str,
    workers: Workers,
) -> None:
    """Calculate the deltas block by block, one worker a core, and call ``do`` with each.

    :param source: Where base and fine-tune come from.
    :param names: Tensors, in this order.
    :param dtype: Of the deltas.
    :param do: Called from several threads; the pieces are begun in order.
    :param listener: Receives progress updates.
    :param what: What is being done, for the listener.
    :param workers: Who calculates; a piece has at most as many elements as their chunk.
    """
    spans = [(name, *span) for name in names for span in chunks(math.prod(source.shapes[name]), workers.chunk)]
    with TensorReader() as reader:

        def one(task: tuple[int, tuple[str, int, int]], calculator: Calculator, stop: threading.Event) -> int:
            number, (name, start, end) = task
            recipe = source.recipe(name, dtype)
            calculator.begin(recipe)
            entries = source.inputs(name)
            rooms = tuple(calculator.room(index, end - start) for index in range(len(entries)))
            for entry, room in zip(entries, rooms, strict=True):
                _fill(entry, start, room, reader)
            delta, finite, found = calculator.difference(start, end)
            sides = rooms if source.has_result else ()
            do(Piece(number, name, start, end, sides, recipe.dtypes[: len(sides)], delta, finite, found), stop)
            return end - start

        total = sum(end - start for _, start, end in spans)
        tasks = list(enumerate(spans))
        work_through(tasks, one, listener, what, total, workers)


def _fill(entry: Subtrahend, start: int, room: memoryview, reader: TensorReader) -> None:
    if isinstance(entry, Packed):
        stream = entry.open(reader)
        stream.skip(start)
        stream.read_into(room, None)
    elif entry is not None:
        reader.read_into(entry, start * ITEM_SIZES[entry.dtype], room)
    else:
        room[:] = bytes(len(room))


def write_packed(
    path: Path,
    source: Source,
    form: Form,
    describe: Callable[[dict[str, dict[str, Any]] | None], dict[str, str]],
    listener: Listener,
    workers: Workers = WORKERS,
) -> dict[str, dict[str, Any]]:
    """Write a packed vector file; return by tensor its fingerprints, counts and what the form summed up.

    :param path: The file, under its temporary name.
    :param source: Where base and fine-tune come from.
    :param form: How the deltas are packed.
    :param describe: Gives the metadata of the header from what is returned; from None placeholders as long as it.
    :param listener: Receives progress updates.
    :param workers: Who calculates; a block has as many elements as their chunk.
    """
    names = sorted(source.shapes)
    form.prepare(source, names, workers, listener)
    blobs = {name: _Blob(name, source, form) for name in names}
    turns = Turns()
    with growing_file(path) as descriptor:
        file = AppendedTensors(descriptor, names, describe(None))
        for name in names:
            file.append(name, b"")  # one without elements has no blocks

        def do(piece: Piece, stop: threading.Event) -> None:
            data, sums = form.encode(piece, stop)
            with turns.of(piece.number, stop) as goes_on:
                if goes_on:
                    file.append(piece.name, data)
                    blobs[piece.name].add(piece, data, sums)
                    if piece.stop == math.prod(source.shapes[piece.name]):
                        file.append(piece.name, blobs[piece.name].index())

        each_piece(source, names, form.dtype, do, listener, "extracting", workers)
        found = {name: blob.summary(source.rest.get(name, {})) for name, blob in blobs.items()}
        file.end(describe(found))
    return found


def most_packed(source: Source, form: Form, describe: Callable[[None], dict[str, str]]) -> int:
    """Return the bytes that a packed vector file has at most; parameters and errors are those of ``write_packed``."""
    blocks = sum(-(-math.prod(shape) // CHUNK_ELEMENTS) for shape in source.shapes.values())
    most = form.most_bytes(source)
    most += most // _COMPRESSOR_SHARE + blocks * _BLOCK_BYTES
    return most + AppendedTensors.room(sorted(source.shapes), describe(None))


def packed_metadata(
    source: Source, form: Form, found: Mapping[str, Mapping[str, Any]] | None, block: int = CHUNK_ELEMENTS
) -> dict[str, str]:
    """Return what the header of a packed vector says beyond that of a dense one; placeholders without ``found``."""
    shapes = {name: [form.decoded(name), source.shapes[name]] for name in sorted(source.shapes)}
    more = {
        "kind": form.kind,
        "dtype": ", ".join(sorted({form.decoded(name) for name in shapes})),
        "block": str(block),
        "shapes": json.dumps(shapes, separators=(",", ":")),
        "options": json.dumps(form.options),
    }
    if form.is_lossy:
        longest = Loss(10**20, _LONGEST, _LONGEST, max(shapes, key=len, default=""), _LONGEST, {})
        loss = dataclasses.asdict(longest if found is None else Loss.of(found))
        loss["errors"] = dict.fromkeys(shapes, _LONGEST) if found is None else loss["errors"]
        more |= {key: json.dumps(value, separators=(",", ":")) for key, value in loss.items()}
    return more


@dataclass
class _Blob:
    """One tensor while its blocks are appended."""

    name: str
    source: Source
    form: Form
    _sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = self.source.shapes[self.name]
        self._state = hasher(self.form.decoded(self.name), shape)
        sides = self.source.inputs(self.name) if self.source.has_result else []
        self._sides = [hasher(entry.dtype, shape) for entry in sides if entry is not None]
        self._sums: dict[str, list[float]] = {"inexact": [], "moved": [], "squares": []}
        self._finite = True

    def add(self, piece: Piece, data: bytes, sums: dict[str, float]) -> None:
        """Take note of the next block."""
        self._state.update(data)
        self._sizes.append(len(data))
        for side, state in zip(piece.inputs, self._sides, strict=True):
            state.update(side)
        self._finite = self._finite and piece.is_finite
        counted = {"inexact": piece.found.inexact, "moved": piece.found.moved, "squares": piece.found.squares}
        for key, value in (counted | sums).items():
            self._sums.setdefault(key, []).append(value)

    def index(self) -> bytes:
        """Return what follows the last block."""
        data = b"".join(size.to_bytes(4, "little") for size in self._sizes)
        self._state.update(data)
        return data

    def summary(self, rest: dict[str, str]) -> dict[str, Any]:
        """Return what is known after the last block."""
        fingerprints = dict(zip(("base", "finetuned"), (state.hexdigest() for state in self._sides), strict=False))
        sums: dict[str, Any] = {key: math.fsum(values) for key, values in self._sums.items()}
        sums |= {key: int(sums[key]) for key in ("inexact", "moved")}
        return rest | fingerprints | {"output": self._state.hexdigest(), "finite": self._finite} | sums
