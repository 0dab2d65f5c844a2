"""Exact task vectors: what turns the base's bits into the fine-tune's, element by element, losslessly."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskarith.arithmetic.folding import Folded, Mask, fold
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.errors import MismatchError, UsageError, name_some
from taskarith.progress import Listener
from taskarith.vectors.form import Packed
from taskarith.vectors.pack import Piece, Source
from taskarith.vectors.packed import PackedFile, join_parts, split_parts, unpack

__all__ = ["Exact", "ExactVector"]


class Exact:
    """Packs deltas so that the fine-tune's bits can be restored; see ``pack.Form``."""

    kind = "exact"
    dtype = "F32"
    is_lossy = False

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def prepare(self, source: Source, names: Sequence[str], block: int, device: str, listener: Listener) -> None:
        """Check that both sides are of one dtype.

        :raises UsageError: The vector is that of an adapter.
        :raises MismatchError: A tensor has another dtype on either side.
        """
        del block, device, listener
        if not source.has_result:
            raise UsageError(
                "an adapter stores no fine-tuned weights that could be restored to the bit",
                "Leave out --exact: the adapter's folder is the smallest form of its vector.",
            )
        sides = {name: [entry.dtype for entry in source.inputs(name) if entry is not None] for name in names}
        wrong = [f"{name} ({before} and {after})" for name, (before, after) in sides.items() if before != after]
        if wrong:
            raise MismatchError(
                f"{len(wrong)} tensors have another dtype in the base and in the fine-tune: {name_some(wrong)}",
                "Use --dtype float64 instead of --exact, or save both models in one dtype.",
            )
        self._dtypes = {name: before for name, (before, _) in sides.items()}
        self.dtype = "F64" if "F64" in self._dtypes.values() else "F32"  # for the norm only

    def decoded(self, name: str) -> str:
        """Return the dtype of the fine-tune."""
        return self._dtypes[name]

    def encode(self, piece: Piece, stop: threading.Event) -> tuple[bytes, dict[str, float]]:
        """Return the bytes of a block: the compressed mask, empty if there is none, and the compressed planes."""
        del stop
        before, after = piece.inputs
        folded, moved = fold(before, after, ITEM_SIZES[piece.dtypes[0]])
        # where nothing has moved there is nothing at all
        return join_parts([folded.mask.data if folded.mask else b"", *folded.planes]) if moved else b"", {
            "inexact": 0,
            "moved": moved,
        }


class ExactVector(PackedFile):
    """An exact task vector file; a coefficient of 1 on its base gives the fine-tune, bit for bit.

    :param path: A ``.safetensors`` file written by ``taskarith extract --exact``.
    :param base: The base that it was made from; that it is this one indeed is found out when it is read.
    :raises VectorError: It is no such vector, or its header is broken.
    :raises MismatchError: The base has other tensors, shapes or dtypes.
    """

    def __init__(self, path: Path, base: Checkpoint) -> None:
        super().__init__(path, Exact.kind)
        self._base = base.tensors
        _check_base(self, self.dtypes, base)

    def delta(self, tensor: str) -> Packed:
        """Return how the fine-tuned tensor is decoded from the base's."""
        size = ITEM_SIZES[self.dtypes[tensor]]
        return self.packed(tensor, lambda data, _, count: _ExactBlock(data, count, size), self._base[tensor])


class _ExactBlock:
    def __init__(self, data: bytes, count: int, size: int) -> None:
        if not data:  # nothing has moved
            self._folded = Folded([b""] * size, count, Mask(bytes((count + 7) // 8), count))
            return
        mask, *planes = split_parts(data, size + 1)
        flags = Mask(unpack(mask, (count + 7) // 8), count) if mask else None
        changes = count if flags is None else flags.changes
        self._folded = Folded([unpack(plane, changes) for plane in planes], count, flags)

    def read(self, start: int, room: memoryview, against: memoryview | None) -> None:
        """Decode elements of the fine-tune."""
        if against is None:
            raise ValueError("it can only be read with its base")
        self._folded.read(start, room, against)


def _check_base(vector: PackedFile, dtypes: Mapping[str, str], base: Checkpoint) -> None:
    wrong = [
        name
        for name, shape in vector.shapes.items()
        if name not in base.tensors or (base.tensors[name].dtype, base.tensors[name].shape) != (dtypes[name], shape)
    ]
    if wrong:
        raise MismatchError(
            f"{len(wrong)} tensors of {vector.name} are not in {base.path} with that shape and dtype: "
            f"{name_some(wrong)}",
            f"An exact vector can only be read with its own base: {vector.base}",
        )
