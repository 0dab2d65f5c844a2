"""Exact task vectors: what turns the base's bits into the fine-tune's, element by element, losslessly.

Changes are counted in units in the last place, and packed in as many bits as the exponent of the base's element lets
expect (see ``arithmetic.kernels.ulp_pack``).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskarith.arithmetic.parallel import Workers
from taskarith.arithmetic.ulp_codec import Folded, fold, most_folded
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.errors import MismatchError, UsageError, VectorError, name_some
from taskarith.progress import Listener
from taskarith.vectors.codecs.block_file import PackedFile
from taskarith.vectors.codecs.write import Piece, Source
from taskarith.vectors.vector import Packed

__all__ = ["Exact", "ExactVector"]

_LAYOUT = 3
"""Number of the layout of blocks; 1 were planes of bytes, compressed, 2 had compressed tables beside the stream."""


class Exact:
    """Packs deltas so that the fine-tune's bits can be restored; see ``pack.Form``."""

    kind = "exact"
    dtype = "F32"
    is_lossy = False

    def __init__(self) -> None:
        self.options: dict[str, Any] = {"layout": _LAYOUT}

    def prepare(self, source: Source, names: Sequence[str], workers: Workers, listener: Listener) -> None:
        """Check that both sides are of one dtype.

        :raises UsageError: The vector is that of an adapter.
        :raises MismatchError: A tensor has another dtype on either side.
        """
        del workers, listener
        self._look(source, names)

    def most_bytes(self, source: Source) -> int:
        """Return how many bytes all blocks have at most, as of models with nothing in common."""
        self._look(source, sorted(source.shapes))
        return sum(most_folded(math.prod(shape), self._dtypes[name]) for name, shape in source.shapes.items())

    def _look(self, source: Source, names: Sequence[str]) -> None:
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
        """Return the bytes of a block, see ``folding``; nothing where nothing has moved."""
        del stop
        data, moved = fold(*piece.inputs, piece.dtypes[0])
        return data if moved else b"", {"inexact": 0, "moved": moved}


class ExactVector(PackedFile):
    """An exact task vector file; a coefficient of 1 on its base gives the fine-tune, bit for bit.

    :param path: A ``.safetensors`` file written by ``taskarith extract --exact``.
    :param base: The base that it was made from; that it is this one indeed is found out when it is read.
    :raises VectorError: It is not such a vector, or its header is broken.
    :raises MismatchError: The base has other tensors, shapes or dtypes.
    """

    def __init__(self, path: Path, base: Checkpoint) -> None:
        super().__init__(path, Exact.kind)
        if self.metadata.get("options") != json.dumps({"layout": _LAYOUT}):
            raise VectorError(
                f"{path} is an exact vector of another layout than this release reads",
                "Extract it again, with --exact.",
            )
        self._base = base.tensors
        _check_base(self, self.dtypes, base)

    def delta(self, tensor: str) -> Packed:
        """Return how the fine-tuned tensor is decoded from the base's."""
        dtype = self.dtypes[tensor]
        return self.packed(tensor, lambda data, _, count: _ExactBlock(data, dtype, count), self._base[tensor])


class _ExactBlock:
    """A block of changes, or an empty one, in which nothing has moved."""

    def __init__(self, data: memoryview, dtype: str, count: int) -> None:
        self._folded = Folded(data, dtype, count) if data else None

    def read(self, start: int, room: memoryview, against: memoryview | None) -> None:
        """Decode elements of the fine-tune."""
        if against is None:
            raise ValueError("it can only be read with its base")
        if self._folded is None:  # nothing has moved
            room[:] = against
        else:
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
