"""The arithmetic of one piece of one tensor: float64 inside, rounded once to the output dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["TORCH_DTYPES", "from_bytes", "linear_edit", "low_rank_rows", "round_to", "same_bits", "to_bytes"]

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' names of the dtypes that arithmetic is defined on."""

_BIT_VIEWS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def from_bytes(buffer: bytearray, dtype: str, device: torch.device) -> torch.Tensor:
    """View little-endian bytes as a flat tensor of a safetensors float dtype, on a device."""
    if not buffer:
        return torch.empty(0, dtype=TORCH_DTYPES[dtype], device=device)
    return torch.frombuffer(buffer, dtype=TORCH_DTYPES[dtype]).to(device)


def to_bytes(values: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor (a view where it lies on the CPU)."""
    return memoryview(values.cpu().view(torch.uint8).numpy())


def round_to(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to nearest even, once.

    torch converts float64 to 16 bits by way of float32, which rounds twice. Here the step to float32 rounds to odd:
    an inexact result takes the neighbour whose last bit is 1, so that the second step still sees which side of a
    midpoint the value was on. Correct because 24 bits >= 11 + 2 (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57 (4), 2008).

    :param values: float64, any shape, any device that has float64.
    :param dtype: float64, float32, float16 or bfloat16.
    """
    single = values.to(torch.float32) if dtype != torch.float64 else values
    if dtype in (torch.float64, torch.float32):
        return single
    back = single.to(torch.float64)
    bits = single.view(torch.int32)
    even_and_inexact = (back != values) & (bits & 1 == 0) & ~values.isnan()
    step = torch.where(values.abs() > back.abs(), 1, -1).to(torch.int32)
    odd = torch.where(even_and_inexact, bits + step, bits).view(torch.float32)
    return odd.to(dtype)


def linear_edit(base: torch.Tensor, terms: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Return ``round(base + sum(terms))``, and the base itself wherever the sum is zero.

    The sum does not depend on the order of the terms: two commute, three or more are added in the order of their
    values, element by element. An element whose sum is zero keeps the bits of the base (``-0.0 + 0.0`` would not).

    :param base: Flat, in the dtype of the file.
    :param terms: Coefficient times delta, float64, shaped like ``base``.
    :param dtype: Dtype of the result.
    """
    if not terms:
        return base if base.dtype == dtype else round_to(base.to(torch.float64), dtype)
    if len(terms) > 2:
        terms = torch.stack(tuple(terms)).sort(dim=0).values.unbind()
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    wide = base.to(torch.float64)
    return round_to(torch.where(total == 0, wide, wide + total), dtype)


def low_rank_rows(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return ``left @ right`` with every element summed over the rank in one fixed order.

    A matrix product may sum differently for another number of rows; here no bit depends on how a tensor is cut.

    :param left: float64, rows x rank.
    :param right: float64, rank x columns.
    :returns: float64, rows x columns.
    """
    total = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64, device=left.device)
    for index in range(left.shape[1]):
        total += left[:, index : index + 1] * right[index]
    return total


def same_bits(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compare two tensors of one dtype bit by bit: -0.0 differs from 0.0, a NaN equals itself."""
    view = _BIT_VIEWS[first.element_size()]
    return first.view(view) == second.view(view)
