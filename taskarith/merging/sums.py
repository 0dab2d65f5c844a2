"""Sums of weighted deltas, element by element, that no order of the operands changes.

Sources: task arithmetic, arXiv:2212.04089; TIES, arXiv:2306.01708.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["elect", "ordered_sum"]


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


def elect(parts: Sequence[np.ndarray], weights: Sequence[float], alpha: float, normalize: bool | None) -> np.ndarray:
    """Elect a sign for each element, and merge the parts that have it.

    The sign is that of the sum of all parts, which are weighted already, as in mergekit (PEFT weights afterwards). A
    sum of zero elects plus, as there; minus under a negative alpha, since alpha multiplies the merged delta.

    :param parts: ``weights[i]`` times what is left of a delta, float64, of one shape.
    :param weights: Coefficients, which alpha multiplies already.
    :param alpha: What the merged delta is multiplied by: TIES calls it lambda.
    :param normalize: None: the mean of the parts that agree (the paper's disjoint mean, of weighted vectors; PEFT).
        True: their sum over the sum of their coefficients without alpha (mergekit's ``normalize: true``). False: their
        sum (mergekit's ``normalize: false``).
    """
    total = ordered_sum(parts)
    is_plus = total >= 0 if alpha > 0 else total > 0
    is_minus = ~is_plus
    agreeing = [(part > 0) & is_plus | (part < 0) & is_minus for part in parts]
    # a product, since np.where mispredicts every other branch; the sign of a zero does not matter
    merged = ordered_sum([part * agrees for agrees, part in zip(agreeing, parts, strict=True)])
    if normalize is False:
        return merged
    if normalize is None:
        divisor = np.maximum(sum(agrees.view(np.uint8).astype(np.uint16) for agrees in agreeing), 1)
    else:
        divisor = ordered_sum([agrees * (weight / alpha) for agrees, weight in zip(agreeing, weights, strict=True)])
        divisor[divisor == 0] = 1
    return np.divide(merged, divisor, out=merged)
