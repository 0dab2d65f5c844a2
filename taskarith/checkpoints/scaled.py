"""Weights that are stored as float8 with scales beside them: weight = stored value * scale of its block.

Two ways of naming them are known: ``X.weight_scale_inv`` (quant_method fp8, blocks) and ``X.weight_scale`` (fp8 and
compressed-tensors, one scale a tensor, a row or a block); in both the stored scale multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import CheckpointError, name_some

__all__ = ["Scaling", "find_scalings"]

_METHODS = {"fp8", "compressed-tensors"}


@dataclass(frozen=True)
class Scaling:
    """The scales of one float8 matrix.

    :param scale: The tensor that holds them.
    :param rows: Rows of a block.
    :param columns: Columns of a block.
    :param across: Blocks beside each other.
    """

    scale: TensorEntry
    rows: int
    columns: int
    across: int


def find_scalings(path: Path, tensors: Mapping[str, TensorEntry], config: Mapping[str, Any]) -> dict[str, Scaling]:
    """Find the scales of all float8 weights of a quantised model; empty for a model that is not quantised.

    :raises CheckpointError: It is quantised in another way, or a float8 weight has no scales that fit it.
    """
    quantization = config.get("quantization_config")
    if not quantization:
        return {}
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
    stored = [tensor for tensor in tensors.values() if tensor.dtype == "F8_E4M3" and len(tensor.shape) == 2]
    packed = [name for name, tensor in tensors.items() if name.endswith("_packed") or tensor.dtype == "F8_E5M2"]
    if method not in _METHODS or not stored or packed:
        raise CheckpointError(
            f"{path} is quantised ({method}); its stored numbers are no weights to calculate with",
            "Use the original model, or dequantise it with transformers (model.dequantize()) and save it.",
        )
    found = {tensor.name: _scaling(tensor, tensors, quantization) for tensor in stored}
    lost = [name for name, scaling in found.items() if scaling is None]
    if lost:
        raise CheckpointError(
            f"{len(lost)} float8 weights of {path} have no scales that fit them: {name_some(lost)}",
            "Save or download the model again, or use the original one.",
        )
    return {name: scaling for name, scaling in found.items() if scaling is not None}


def _scaling(
    tensor: TensorEntry, tensors: Mapping[str, TensorEntry], quantization: Mapping[str, Any]
) -> Scaling | None:
    scale = tensors.get(f"{tensor.name}_scale_inv") or tensors.get(f"{tensor.name}_scale")
    if scale is None or not scale.is_float or scale.elements == 0 or len(scale.shape) > 2:
        return None
    rows, columns = tensor.shape
    if scale.elements == 1:
        return Scaling(scale, max(rows, 1), max(columns, 1), 1)
    down, across = scale.shape if len(scale.shape) == 2 else (scale.shape[0], 1)
    size = quantization.get("weight_block_size")
    if size is None:  # a scale for every row
        return Scaling(scale, 1, max(columns, 1), 1) if (down, across) == (rows, 1) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    fits = (down, across) == (-(-rows // size[0]), -(-columns // size[1]))
    return Scaling(scale, size[0], size[1], across) if fits else None
