"""Write a PEFT adapter folder: its configuration and its weights, whose names, shapes and order are known before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.arithmetic.encoding import encode
from taskarith.checkpoints.header import ITEM_SIZES, TensorEntry, build_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.writer import sized_files, write_at
from taskarith.vectors.lora.layout import FolderLayout
from taskarith.vectors.lora.read import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from taskarith.vectors.vector import BaseRecord

if TYPE_CHECKING:
    import numpy as np

__all__ = ["pack_factors", "write_adapter"]


def pack_factors(
    lefts: Sequence[np.ndarray], rights: Sequence[np.ndarray], is_turned: bool, dtype: str
) -> tuple[bytes, bytes]:
    """Return the bytes of A and B as PEFT lays them out.

    :param lefts: float64, rows x rank: one for a matrix, one for each expert of a fused parameter. Lower ranks than the
        greatest are filled up with zeros.
    :param rights: float64, rank x columns, likewise; ``left @ right`` is the delta.
    :param is_turned: Whether the delta is the transpose of ``B A``.
    :param dtype: Of the factors, as safetensors names it.
    :returns: A is (experts * rank) x in, one expert after the other; B is out x (rank * experts), interleaved.
    """
    import numpy as np

    rank = max(left.shape[1] for left in lefts)
    pairs = [(right.T, left.T) if is_turned else (left, right) for left, right in zip(lefts, rights, strict=True)]
    b = np.stack([np.pad(one, ((0, 0), (0, rank - one.shape[1]))) for one, _ in pairs], axis=2)
    a = np.concatenate([np.pad(one, ((0, rank - one.shape[0]), (0, 0))) for _, one in pairs])
    return encode(np.ascontiguousarray(a).ravel(), dtype), encode(np.ascontiguousarray(b).ravel(), dtype)


def adapter_file(
    layout: FolderLayout, dtype: str, whole: Mapping[str, TensorEntry]
) -> tuple[bytes, dict[str, int], int]:
    """Return the header of the adapter's file, where its tensors begin, and its size; parameters: ``write_adapter``."""
    shapes = sorted(layout.shapes().items())
    described = [(name, whole[name].dtype if name in whole else dtype, shape) for name, shape in shapes]
    header, offsets = build_header(described, {"format": "pt"})
    return header, offsets, len(header) + sum(math.prod(shape) * ITEM_SIZES[one] for _, one, shape in described)


def write_adapter(
    folder: Path,
    layout: FolderLayout,
    base: BaseRecord,
    dtype: str,
    factors: Callable[[str], tuple[bytes, bytes]],
    whole: Mapping[str, TensorEntry],
) -> int:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; return the size of the latter.

    :param folder: An existing folder.
    :param layout: Where everything goes.
    :param base: The base, as it is to be recorded.
    :param dtype: Of the factors, as safetensors names it.
    :param factors: Returns the bytes of A and B of a parameter, of at most the rank that the layout gives it.
    :param whole: The tensors that are saved as they are, by their names in the adapter file.
    """
    config, shapes = layout.config(base.name, base.revision), layout.shapes()
    header, offsets, size = adapter_file(layout, dtype, whole)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    path = folder / ADAPTER_WEIGHTS
    with TensorReader() as reader, sized_files({path: size}) as files:
        write_at(files[path], header, 0)
        for parameter in layout.ranks:
            many = layout.architecture.parameters[parameter].shape[:-2]
            for name, data, is_a in zip(layout.factor_names(parameter), factors(parameter), (True, False), strict=True):
                blocks = math.prod(many) if is_a else shapes[name][0]
                wanted = math.prod(shapes[name]) * ITEM_SIZES[dtype]
                write_at(files[path], _widened(data, blocks, wanted), offsets[name])
        for name, entry in whole.items():
            position = offsets[name]
            for piece in reader.pieces(entry):
                write_at(files[path], piece, position)
                position += len(piece)
    return size


def _widened(data: bytes, blocks: int, wanted: int) -> bytes:
    """Fill up each block with zeros: factors of a lower rank than the file gives them."""
    if len(data) == wanted:
        return data
    own, whole = len(data) // blocks, wanted // blocks
    return b"".join(data[start : start + own].ljust(whole, b"\0") for start in range(0, len(data), own))
