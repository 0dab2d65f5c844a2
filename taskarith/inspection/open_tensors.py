"""What a path holds, to look at it: its tensors by name and its records; and ways to measure them in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from taskarith.arithmetic.encoding import decode
from taskarith.arithmetic.parallel import chunks, usable_cores
from taskarith.checkpoints.checkpoint import is_adapter, open_checkpoint
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, read_header
from taskarith.checkpoints.places import absolute_names
from taskarith.checkpoints.provenance import read_provenance
from taskarith.checkpoints.reader import HashingTensor, TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.errors import CheckpointError, MismatchError, TaskarithError
from taskarith.progress import SILENT, Listener
from taskarith.untrusted import MalformedError, open_regular, parse_json
from taskarith.vectors.file import FORMAT
from taskarith.vectors.lora.adapter import adapter_tensors
from taskarith.vectors.open import open_packed
from taskarith.vectors.vector import Packed

__all__ = ["Contents", "Magnitude", "PackedEntry", "go_through", "open_contents", "plain", "raw_chunks"]

_Task = TypeVar("_Task")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class PackedEntry:
    """A delta of a packed vector, which is decoded while it is read; otherwise like a ``TensorEntry``."""

    name: str
    shape: tuple[int, ...]
    path: Path
    packed: Packed

    @property
    def dtype(self) -> str:
        """Dtype of the delta; one that is a difference to the base is taken in float64."""
        return self.packed.dtype if self.packed.base is None else "F64"

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes stored."""
        return self.packed.nbytes

    @property
    def is_float(self) -> bool:
        """Whether arithmetic is defined on it, as on every delta."""
        return True


@dataclass(frozen=True)
class Contents:
    """Tensors on disk, whatever they are to each other; only headers have been read.

    :param path: The file or folder.
    :param kind: ``vector``, ``file`` (another safetensors file), ``model`` or ``adapter``.
    :param tensors: By name, in file order.
    :param record: The header of a file, or the ``taskarith.json`` of a folder.
    :param remark: Why the deltas of a packed vector cannot be decoded: then ``tensors`` are the stored bytes.
    """

    path: Path
    kind: str
    tensors: Mapping[str, TensorEntry | PackedEntry]
    record: dict[str, Any]
    remark: str = ""


def open_contents(name: str, listener: Listener = SILENT) -> Contents:
    """Open a safetensors file, a LoRA folder or a model (folder, hub id or GGUF).

    :param name: As the user wrote it.
    :param listener: Receives notes about downloads and conversions.
    :raises CheckpointError: There is nothing, or it cannot be read safely.
    :raises VectorError: It is a pickled adapter.
    """
    path = Path(name)
    if path.suffix == ".safetensors" and not path.exists():  # "runs/v.safetensors" could be taken for a hub id
        raise CheckpointError(f"there is no file {name}", "Check the path.")
    if path.is_file() and not _is_gguf(path):
        header = read_header(path)
        kind = "vector" if header.metadata.get("format") == FORMAT else "file"
        found = Contents(path, kind, {entry.name: entry for entry in header.tensors}, _parsed(header.metadata))
        if kind == "vector":
            found = replace(found, record=absolute_names(found.record, path.parent))
        return found if kind == "file" or header.metadata.get("kind") == "dense" else _decoded(found, listener)
    path = resolve_model(name, listener).path
    record = read_provenance(path) or {}
    if is_adapter(path):
        return Contents(path, "adapter", {entry.name: entry for entry in adapter_tensors(path)}, record)
    return Contents(path, "model", open_checkpoint(path).tensors, record)


class Magnitude:
    """How large values are that come in pieces; those that are not finite are counted and otherwise left out."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.zeros = 0
        self.nonfinite = 0
        self._norms: list[float] = []

    def add(self, values: np.ndarray) -> None:
        """Take in a piece of flat float64."""
        if not values.size:
            return
        sizes = np.abs(values)
        largest = float(sizes.max())
        if not math.isfinite(largest):
            sizes = sizes[np.isfinite(sizes)]
            self.nonfinite += values.size - sizes.size
            largest = float(sizes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        self.zeros += sizes.size - int(np.count_nonzero(sizes))
        if largest:
            unit = 1.0 if 1e-100 < largest < 1e100 else largest  # squares neither overflow nor vanish
            self._norms.append(unit * math.sqrt(float(np.square(sizes / unit if unit != 1.0 else sizes).sum())))

    @property
    def norm(self) -> float:
        """The Euclidean norm."""
        return math.hypot(*self._norms)


def raw_chunks(reader: TensorReader, entry: TensorEntry | PackedEntry) -> Iterator[bytes | bytearray]:
    """Return the bytes of a tensor in pieces of a few whole elements.

    :raises VectorError: A packed tensor is broken.
    :raises MismatchError: It is relative to a base that has changed.
    """
    if isinstance(entry, PackedEntry):
        yield from _decoded_chunks(reader, entry)
        return
    size = ITEM_SIZES[entry.dtype]
    for start, stop in chunks(entry.elements):
        yield reader.read(entry, start * size, stop * size)


def go_through(
    tasks: Sequence[_Task], do: Callable[[_Task], _Found], size: Callable[[_Task], int], listener: Listener, what: str
) -> list[_Found]:
    """Do all tasks, one thread a core, and return what each found, in their order.

    :param tasks: What is to be done.
    :param do: Does one task, with numpy, which lets other threads run meanwhile.
    :param size: Its size, for the listener.
    :param listener: Receives progress updates.
    :param what: What is being done, for the listener.
    """
    total, done = sum(map(size, tasks)), 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        futures = {pool.submit(do, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                done += size(futures[future])
                listener.progress(what, done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it everywhere: None for a number that is not finite, no half characters."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _decoded(found: Contents, listener: Listener) -> Contents:
    try:
        vector = open_packed(found.path, listener)
    except TaskarithError as error:
        return replace(found, remark=error.message)
    tensors = {}
    for name in found.tensors:
        packed = vector.delta(name)
        if isinstance(packed, Packed):
            tensors[name] = PackedEntry(name, vector.shapes[name], found.path, packed)
    return replace(found, tensors=tensors)


def _decoded_chunks(reader: TensorReader, entry: PackedEntry) -> Iterator[bytes | bytearray]:
    packed, stream = entry.packed, entry.packed.open(reader)
    size, origin = ITEM_SIZES[packed.dtype], HashingTensor(packed.base, reader) if packed.base else None
    for start, stop in chunks(entry.elements):
        room = bytearray((stop - start) * size)
        if origin is None:
            stream.read_into(memoryview(room), None)
            yield room
            continue
        before = bytearray(len(room))
        origin.read_into(memoryview(before))
        stream.read_into(memoryview(room), memoryview(before))
        yield (decode(room, packed.dtype) - decode(before, packed.dtype)).tobytes()
    if origin is not None and packed.expected not in {"", origin.fingerprint()}:
        raise MismatchError(
            f"{entry.name} in {entry.path} cannot be decoded: {origin.entry.path} has changed",
            "Restore the base that the vector was made from.",
        )


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return a header with its values that are JSON objects as such."""
    found: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        with suppress(MalformedError):
            found[key] = parse_json(text) if text.startswith("{") else text
    return found


def _is_gguf(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(4) == b"GGUF"
    except MalformedError:
        return False
