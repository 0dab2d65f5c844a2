"""Kernels of random masks: Philox4x32 with ten rounds, and what is kept of a chunk by it.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. It takes products of 32
bits only, so it vectorises. The functions follow the rules of ``arithmetic.kernels.linear``.
"""

from __future__ import annotations

import numpy as np

from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.kernels.rounding import array, kernel

__all__ = ["draw", "keep"]

_0, _32, _LOW = np.uint64(0), np.uint64(32), np.uint64(0xFFFFFFFF)
_FIRST, _SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL, _OTHER_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_STEPS = BLOCK // 4


@kernel
def draw(block, blocks, key, out):
    """Write the numbers of some blocks: of each the first words of its steps, then the second ones, and so on.

    :param block: Number of the first block; the counter of its first step is a quarter of a block times this.
    :param blocks: How many.
    :param key: 64 bits.
    :param out: Address of ``blocks * BLOCK`` uint32.
    """
    for number in range(blocks):
        _draw(np.uint64(block + number), np.uint64(key), out + 4 * BLOCK * number)
    return np.int64(0)


@kernel
def _draw(block, key, out):
    words, first = array(out, BLOCK, np.uint32), np.uint64(block * np.uint64(_STEPS))
    for i in range(_STEPS):
        step = np.uint64(first + np.uint64(i))
        c0, c1, c2, c3 = np.uint64(step & _LOW), np.uint64(step >> _32), _0, _0
        k0, k1 = np.uint64(key & _LOW), np.uint64(key >> _32)
        for _ in range(_ROUNDS):
            one, other = np.uint64(_FIRST * c0), np.uint64(_SECOND * c2)
            c0, c1 = np.uint64((other >> _32) ^ c1 ^ k0), np.uint64(other & _LOW)
            c2, c3 = np.uint64((one >> _32) ^ c3 ^ k1), np.uint64(one & _LOW)
            k0, k1 = np.uint64((k0 + _WEYL) & _LOW), np.uint64((k1 + _OTHER_WEYL) & _LOW)
        words[i], words[_STEPS + i] = np.uint32(c0), np.uint32(c1)
        words[2 * _STEPS + i], words[3 * _STEPS + i] = np.uint32(c2), np.uint32(c3)


@kernel
def keep(values, count, block, key, limit, divisor, weight, out, scratch):
    """Write ``value / divisor * weight`` of those elements whose numbers are below a limit, and zero for all others.

    :param values: Address of float64.
    :param count: Number of elements.
    :param block: Number of the block that they begin with.
    :param key: 64 bits.
    :param limit: At most 2^32.
    :param divisor: float64.
    :param weight: float64.
    :param out: Address of the result.
    :param scratch: Address of ``4 * BLOCK`` bytes.
    """
    numbers = array(scratch, BLOCK, np.uint32)
    for start in range(0, count, BLOCK):
        n = min(BLOCK, count - start)
        _draw(np.uint64(block + start // BLOCK), np.uint64(key), scratch)
        before, after = array(values + 8 * start, n, np.float64), array(out + 8 * start, n, np.float64)
        for i in range(n):
            after[i] = before[i] * np.float64(np.int64(numbers[i]) < limit) / divisor * weight
    return np.int64(0)
