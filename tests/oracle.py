"""The right answers, worked out with numpy in float64, independently of the code under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

_FORMATS = {torch.bfloat16: (7, -126, 127), torch.float16: (10, -14, 15), torch.float32: (23, -126, 127)}


def round_once(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Round float64 to the grid of a narrower format, to nearest even, as float64; beyond the largest: infinity."""
    if dtype == torch.float64:
        return values
    digits, least, most = _FORMATS[dtype]
    with np.errstate(all="ignore"):
        exponent = np.clip(np.frexp(values)[1] - 1, least, None)
        unit = np.ldexp(1.0, exponent - digits)
        rounded = np.rint(values / unit) * unit
        largest = (2 - 2.0**-digits) * 2.0**most
    return np.where(np.abs(rounded) > largest, np.copysign(np.inf, rounded), rounded)


def edit(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], coefficients: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    """Return base + sum of coefficient * delta in float64, rounded once; the base where the sum is zero."""
    wide = base.to(torch.float64).numpy()
    terms = np.sort(
        np.stack([c * d.to(torch.float64).numpy() for c, d in zip(coefficients, deltas, strict=True)]), axis=0
    )
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    result = np.where(total == 0, wide, wide + total)
    return torch.from_numpy(round_once(result, dtype)).to(dtype)  # exact: already on the grid of dtype


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Load all tensors of a model folder."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Name the tensors whose bits, shapes or dtypes differ, or that one side lacks."""
    names = first.keys() | second.keys()
    return sorted(name for name in names if not _same(first.get(name), second.get(name)))


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None or first.dtype != second.dtype or first.shape != second.shape:
        return False
    if first.numel() == 0:
        return True
    return torch.equal(first.contiguous().view(-1).view(torch.uint8), second.contiguous().view(-1).view(torch.uint8))
