"""Verify the deltas of a packed vector, against its record and against its base and fine-tune."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from taskarith.arithmetic.encoding import decode, encode
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, VectorError
from taskarith.progress import Listener
from taskarith.vectors.codecs.block_file import PackedFile
from taskarith.vectors.pair import PairVector
from taskarith.vectors.vector import Difference, Packed, Vector

__all__ = ["compare_deltas", "damaged_deltas"]


def damaged_deltas(vector: PackedFile, recorded: Mapping[str, str], listener: Listener) -> tuple[str, ...]:
    """Return the deltas whose stored bytes do not match the record, or that are missing or new."""
    damaged = []
    with TensorReader() as reader:
        for index, name in enumerate(sorted(vector.entries.keys() | recorded.keys())):
            listener.progress("verifying", index, len(recorded))
            if name not in vector.entries or vector.fingerprint(name, reader) != recorded.get(name):
                damaged.append(name)
    return tuple(damaged)


def compare_deltas(
    vector: Vector, names: Iterable[str], pair: PairVector, seed: int, size: int
) -> tuple[int, tuple[str, ...]]:
    """Decode a run of elements of each tensor, and compare it with the base and the fine-tune.

    An exact vector must give the bits of the fine-tune; every nonzero entry of a sparse one must be the difference,
    rounded to its dtype.

    :param vector: Exact or sparse.
    :param names: Names of the tensors.
    :param pair: Base and fine-tune.
    :param seed: Seed of the samples.
    :param size: Elements per sample, which starts at a multiple of it.
    :returns: The number of compared elements, and the tensors that differ.
    """
    generator = np.random.default_rng(seed)
    count, wrong = 0, []
    with TensorReader() as reader:
        for name in names:
            packed, both = vector.delta(name), pair.delta(name)
            if not isinstance(packed, Packed):
                raise TypeError(f"{name} is not packed")
            start = size * int(generator.integers(0, max(1, -(-both.base.elements // size))))
            stop = min(both.base.elements, start + size)
            if not _is_right(packed, both, start, stop, reader):
                wrong.append(name)
            count += stop - start
    return count, tuple(wrong)


def _is_right(packed: Packed, both: Difference, start: int, stop: int, reader: TensorReader) -> bool:
    before, after = (
        reader.read(side, start * ITEM_SIZES[side.dtype], stop * ITEM_SIZES[side.dtype])
        for side in (both.base, both.finetuned)
    )
    data = bytearray((stop - start) * ITEM_SIZES[packed.dtype])
    stream = packed.open(reader)
    stream.skip(start)
    try:
        stream.read_into(memoryview(data), memoryview(before))
    except (VectorError, MismatchError):
        return False
    if packed.base is not None:
        return data == after
    delta = decode(after, both.finetuned.dtype) - decode(before, both.base.dtype)
    wanted = decode(encode(delta, "F64" if packed.dtype == "F64" else "F32"), "F64" if packed.dtype == "F64" else "F32")
    stored, wanted = decode(data, packed.dtype), decode(encode(wanted, packed.dtype), packed.dtype)
    return bool(np.array_equal(stored[stored != 0], wanted[stored != 0]))
