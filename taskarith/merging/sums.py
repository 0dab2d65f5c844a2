"""Sums of weighted deltas, element by element, that no order of the operands changes.

Sources: task arithmetic, arXiv:2212.04089; TIES, arXiv:2306.01708.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taskarith.arithmetic.kernels.available import address, load_or_none
from taskarith.arithmetic.kernels.layout import BLOCK

if TYPE_CHECKING:
    from taskarith.arithmetic.kernels.compile import Kernels

__all__ = ["elect", "merged_sum", "ordered_sum"]


def ordered_sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum of float64 arrays of one shape; three or more are added in the order of their values.

    The bits are those of ``arithmetic.kernels.linear.linear``.
    """
    if len(parts) > 2:
        parts = list(np.sort(np.stack(parts), axis=0))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def merged_sum(parts: Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Return ``ordered_sum(parts)`` in some memory: flat float64."""
    kernels = load_or_none("merge")
    if kernels is None:
        out[:] = ordered_sum(parts)
    else:
        _call(kernels, parts, 0, None, out)
    return out


def elect(
    parts: Sequence[np.ndarray],
    weights: Sequence[float],
    alpha: float,
    normalize: bool | None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Elect a sign for each element, and merge the parts that have it.

    The sign is that of the sum of all parts, which are weighted already, as in mergekit (PEFT weights afterwards). A
    sum of zero elects plus, as there; minus under a negative alpha, since alpha multiplies the merged delta.

    :param parts: ``weights[i]`` times what is left of a delta: flat float64.
    :param weights: Coefficients, which alpha multiplies already.
    :param alpha: What the merged delta is multiplied by: TIES calls it lambda.
    :param normalize: None: the mean of the parts that agree (the paper's disjoint mean, of weighted vectors; PEFT).
        True: their sum over the sum of their coefficients without alpha (mergekit's ``normalize: true``). False: their
        sum (mergekit's ``normalize: false``).
    :param out: Memory for the result.
    """
    kernels, out = load_or_none("merge"), np.empty(len(parts[0])) if out is None else out
    if kernels is not None:
        shares = [weight / alpha if normalize else 1.0 for weight in weights]
        _call(kernels, parts, 1 if alpha > 0 else -1, None if normalize is False else shares, out)
        return out
    total = ordered_sum(parts)
    is_plus = total >= 0 if alpha > 0 else total > 0
    is_minus = ~is_plus
    agreeing = [(part > 0) & is_plus | (part < 0) & is_minus for part in parts]
    # a product, since np.where mispredicts every other branch; the sign of a zero does not matter
    merged = ordered_sum([part * agrees for agrees, part in zip(agreeing, parts, strict=True)])
    if normalize is False:
        out[:] = merged
        return out
    if normalize is None:
        divisor = np.maximum(sum(agrees.view(np.uint8).astype(np.uint16) for agrees in agreeing), 1)
    else:
        divisor = ordered_sum([agrees * (weight / alpha) for agrees, weight in zip(agreeing, weights, strict=True)])
        divisor[divisor == 0] = 1
    return np.divide(merged, divisor, out=out)


def _call(
    kernels: Kernels, parts: Sequence[np.ndarray], elects: int, shares: Sequence[float] | None, out: np.ndarray
) -> None:
    """Call ``kernels.elect``; no shares: nothing is divided."""
    where, given = array("q", [address(part) for part in parts]), array("d", shares or [1.0] * len(parts))
    order = array("q", sorted(range(len(parts)), key=given.__getitem__))
    scratch = np.empty((len(parts) + 2) * (BLOCK + 1))
    sizes = given.buffer_info()[0], order.buffer_info()[0] if shares is not None else 0
    kernels.elect(where.buffer_info()[0], len(parts), len(out), elects, *sizes, address(out), scratch.ctypes.data)
