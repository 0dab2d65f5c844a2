"""Weights that are stored as float8 with scales beside them: weight = stored value * scale of its block.

Two ways of naming them are known: ``X.weight_scale_inv`` (quant_method fp8, blocks) and ``X.weight_scale`` (fp8 and
compressed-tensors, one scale a tensor, a row or a block); in both the stored scale multiplies. Scales are floats, or
F8_E8M0: powers of two, which are also demanded of floats where the configuration says ``scale_fmt: ue8m0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskarith.checkpoints.header import FLOAT_DTYPES, TensorEntry
from taskarith.errors import CheckpointError, name_some

__all__ = ["Scaling", "find_scalings"]

_METHODS = {"fp8", "compressed-tensors"}

_SCALE_DTYPES = (*FLOAT_DTYPES, "F8_E8M0")

_SECTIONS = ("quantization_config", "compression_config")

_ACTIVATIONS = ("input", "output", "activation", "act_", "k_", "q_", "v_", "kv_")
"""Beginnings of the names of scales of anything but weights."""


@dataclass(frozen=True)
class Scaling:
    """The scales of one float8 matrix.

    :param scale: The tensor that holds them.
    :param rows: Rows of a block.
    :param columns: Columns of a block.
    :param across: Blocks beside each other.
    :param grid: The dtype whose numbers a new scale may have.
    """

    scale: TensorEntry
    rows: int
    columns: int
    across: int
    grid: str


def find_scalings(path: Path, tensors: Mapping[str, TensorEntry], config: Mapping[str, Any]) -> dict[str, Scaling]:
    """Find the scales of all float8 weights of a quantised model; empty for a model that is not quantised.

    :raises CheckpointError: It is quantised in another way, a float8 weight has no scales that fit it, or there are
        scales and the configuration does not say what they are.
    """
    quantization = _quantization(path, config)
    if not quantization:
        _check_no_scales(path, tensors)
        return {}
    said = quantization.get("quant_method") if isinstance(quantization, dict) else None
    method = said if isinstance(said, str) else "unknown"
    if all(tensor.is_float for tensor in tensors.values()):
        raise CheckpointError(
            f"{path} is said to be quantised ({method}), but all of its tensors are plain floats",
            "If these are the weights, as after dequantising, remove quantization_config from its config.json.",
        )
    stored = [tensor for tensor in tensors.values() if tensor.dtype == "F8_E4M3" and len(tensor.shape) == 2]
    packed = [name for name, tensor in tensors.items() if name.endswith("_packed") or tensor.dtype == "F8_E5M2"]
    if method not in _METHODS or not stored or packed:
        raise CheckpointError(
            f"{path} is quantised ({method}); its stored numbers are not weights to calculate with",
            "Use the original model, or dequantise it with transformers (model.dequantize()) and save it.",
        )
    found = {tensor.name: _scaling(tensor, _scale(tensor, tensors), quantization) for tensor in stored}
    lost = [name for name, scaling in found.items() if scaling is None]
    if lost:
        raise CheckpointError(
            f"{len(lost)} float8 weights of {path} have no scales that fit them: {name_some(lost)}; "
            f"{_reason(tensors[lost[0]], tensors)}",
            f"Use the original model, or one with scales named WEIGHT_scale_inv or WEIGHT_scale, as "
            f"{', '.join(_SCALE_DTYPES)}.",
        )
    return {name: scaling for name, scaling in found.items() if scaling is not None}


def _quantization(path: Path, config: Mapping[str, Any]) -> Any:
    """Return what the configuration, or a part of it, says about quantisation."""
    sections = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    said = [section.get(key) for key in _SECTIONS for section in sections]
    other = {"quant_method": "modelopt"} if (path / "hf_quant_config.json").exists() else None
    return next((one for one in said if one), other)


def _check_no_scales(path: Path, tensors: Mapping[str, TensorEntry]) -> None:
    scales = _scales_by_module(tensors)
    weights = [name for name, tensor in tensors.items() if tensor.dtype.startswith("F8_") and "scale" not in name]
    both = [name for name in weights if _module(name) in scales]
    if both:
        raise CheckpointError(
            f"{len(both)} float8 weights of {path} have scales, as {scales[_module(both[0])]}, but its config.json has "
            f"no quantization_config: {name_some(both)}",
            "Put quantization_config back, as the original model's config.json has it: without it nothing says how to "
            "multiply by the scales.",
        )


def _scales_by_module(tensors: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Return a tensor of scales of weights for each module that has one, whatever it is called."""
    found = {}
    for name in tensors:
        parent, _, last = name.rpartition(".")
        if "scale" in last and not last.startswith(_ACTIVATIONS):
            found[parent.removesuffix(".weight")] = name
    return found


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _scale(tensor: TensorEntry, tensors: Mapping[str, TensorEntry]) -> TensorEntry | None:
    return tensors.get(f"{tensor.name}_scale_inv") or tensors.get(f"{tensor.name}_scale")


def _reason(tensor: TensorEntry, tensors: Mapping[str, TensorEntry]) -> str:
    """Say why the scales of a weight cannot be used."""
    scale = _scale(tensor, tensors)
    if scale is None:
        other = _scales_by_module(tensors).get(_module(tensor.name))
        return f"its scales are named {other}" if other else f"{tensor.name}_scale_inv is not stored"
    if scale.dtype not in _SCALE_DTYPES:
        return f"{scale.name} is of dtype {scale.dtype}, which cannot be calculated with"
    return f"{scale.name} has the shape {list(scale.shape)} for {list(tensor.shape)} and the configured blocks"


def _scaling(tensor: TensorEntry, scale: TensorEntry | None, quantization: Mapping[str, Any]) -> Scaling | None:
    if scale is None or scale.dtype not in _SCALE_DTYPES or scale.elements == 0 or len(scale.shape) > 2:
        return None
    grid = "F8_E8M0" if quantization.get("scale_fmt") == "ue8m0" else scale.dtype
    rows, columns = tensor.shape
    if scale.elements == 1:
        return Scaling(scale, max(rows, 1), max(columns, 1), 1, grid)
    down, across = scale.shape if len(scale.shape) == 2 else (scale.shape[0], 1)
    size = quantization.get("weight_block_size")
    if size is None:  # a scale for every row
        return Scaling(scale, 1, max(columns, 1), 1, grid) if (down, across) == (rows, 1) else None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    fits = (down, across) == (-(-rows // size[0]), -(-columns // size[1]))
    return Scaling(scale, size[0], size[1], across, grid) if fits else None
