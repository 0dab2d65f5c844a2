"""Open anything that can be inspected, and stream its tensors in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

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
from taskarith.vectors.locate import is_on_hub, locate_vector
from taskarith.vectors.lora.adapter import adapter_tensors
from taskarith.vectors.open import open_packed
from taskarith.vectors.vector import Packed

__all__ = [
    "Contents",
    "PackedEntry",
    "map_in_threads",
    "open_contents",
    "plain",
    "raw_chunks",
]

_CHUNK = 1 << 19  # elements read at a time

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PackedEntry:
    """A delta of a packed vector, decoded while it is read; otherwise like a ``TensorEntry``."""

    name: str
    shape: tuple[int, ...]
    path: Path
    packed: Packed

    @property
    def dtype(self) -> str:
        """Dtype of the delta; float64 for one stored relative to the base."""
        return self.packed.dtype if self.packed.base is None else "F64"

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of stored bytes."""
        return self.packed.nbytes

    @property
    def is_float(self) -> bool:
        """True: every delta is a float."""
        return True


@dataclass(frozen=True)
class Contents:
    """Tensors on disk, of which only headers have been read.

    :param path: The file or folder.
    :param kind: ``vector``, ``file`` (another safetensors file), ``model`` or ``adapter``.
    :param tensors: Tensors by name, in file order.
    :param record: The header of a file, or the ``taskarith.json`` of a folder.
    :param remark: Why the deltas of a packed vector cannot be decoded; ``tensors`` are the stored bytes then.
    """

    path: Path
    kind: str
    tensors: Mapping[str, TensorEntry | PackedEntry]
    record: dict[str, Any]
    remark: str = ""


def open_contents(name: str, listener: Listener = SILENT) -> Contents:
    """Open a safetensors file, a LoRA folder or a model (folder or GGUF file), here or on the hub.

    :param name: As the user wrote it.
    :param listener: Receives notes on downloads and conversions.
    :raises CheckpointError: It does not exist, or cannot be read safely.
    :raises VectorError: It is a pickled adapter.
    """
    if is_on_hub(name):
        name = str(locate_vector(name, listener))
    path = Path(name)
    if path.suffix == ".safetensors" and not path.exists():  # "runs/v.safetensors" could be taken for a hub id
        raise CheckpointError(f"there is no file {name}", "Check the path.")
    if path.is_file() and path.suffix == ".json":
        raise CheckpointError(f"{name} holds no tensors", f"Name its folder: {path.parent}")
    if path.is_file() and not _is_gguf(path):
        header = read_header(path)
        kind = "vector" if header.metadata.get("format") == FORMAT else "file"
        contents = Contents(path, kind, {entry.name: entry for entry in header.tensors}, _parsed(header.metadata))
        if kind == "vector":
            contents = replace(contents, record=absolute_names(contents.record, path.parent))
        is_stored = kind == "file" or header.metadata.get("kind") == "dense"
        return contents if is_stored else _decoded(contents, listener)
    path = resolve_model(name, listener).path
    record = read_provenance(path) or {}
    if is_adapter(path):
        return Contents(path, "adapter", {entry.name: entry for entry in adapter_tensors(path)}, record)
    return Contents(path, "model", open_checkpoint(path).tensors, record)


def raw_chunks(reader: TensorReader, entry: TensorEntry | PackedEntry) -> Iterator[bytes | bytearray]:
    """Yield the bytes of a tensor in chunks of whole elements, each of which the next may overwrite.

    :raises VectorError: A packed tensor is broken.
    :raises MismatchError: Its base has changed.
    """
    if isinstance(entry, PackedEntry):
        yield from _decoded_chunks(reader, entry)
        return
    size, data = ITEM_SIZES[entry.dtype], bytearray()
    for start, stop in chunks(entry.elements, _CHUNK):
        if len(data) != (stop - start) * size:
            data = bytearray((stop - start) * size)
        reader.read_into(entry, start * size, memoryview(data))
        yield data


def map_in_threads(
    tasks: Sequence[_Task], do: Callable[[_Task], _Result], size: Callable[[_Task], int], listener: Listener, what: str
) -> list[_Result]:
    """Run all tasks with one thread per core, and return their results in order.

    :param tasks: The tasks.
    :param do: Runs one task, with numpy, which lets other threads run.
    :param size: Size of a task, for the listener.
    :param listener: Receives progress updates.
    :param what: Name of the work, for the listener.
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
    """Return a value as portable JSON: None for non-finite numbers, and no lone surrogates."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _decoded(contents: Contents, listener: Listener) -> Contents:
    try:
        vector = open_packed(contents.path, listener)
    except TaskarithError as error:
        return replace(contents, remark=error.message)
    tensors = {}
    for name in contents.tensors:
        packed = vector.delta(name)
        if isinstance(packed, Packed):
            tensors[name] = PackedEntry(name, vector.shapes[name], contents.path, packed)
    return replace(contents, tensors=tensors)


def _decoded_chunks(reader: TensorReader, entry: PackedEntry) -> Iterator[bytes | bytearray]:
    packed, stream = entry.packed, entry.packed.open(reader)
    size, origin = ITEM_SIZES[packed.dtype], HashingTensor(packed.base, reader) if packed.base else None
    for start, stop in chunks(entry.elements, _CHUNK):
        data = bytearray((stop - start) * size)
        if origin is None:
            stream.read_into(memoryview(data), None)
            yield data
            continue
        before = bytearray(len(data))
        origin.read_into(memoryview(before))
        stream.read_into(memoryview(data), memoryview(before))
        yield (decode(data, packed.dtype) - decode(before, packed.dtype)).tobytes()
    if origin is not None and packed.expected not in {"", origin.fingerprint()}:
        raise MismatchError(
            f"{entry.name} in {entry.path} cannot be decoded: {origin.entry.path} has changed",
            "Restore the base that the vector was made from.",
        )


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return a header's metadata with its JSON objects parsed."""
    parsed: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        with suppress(MalformedError):
            parsed[key] = parse_json(text) if text.startswith("{") else text
    return parsed


def _is_gguf(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(4) == b"GGUF"
    except MalformedError:
        return False
