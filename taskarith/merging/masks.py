"""Random masks that depend on nothing but seed, tensor, delta and place: whatever the chunks, threads and processes.

Sources: DARE, arXiv:2311.03099; DELLA, arXiv:2406.11617.
"""

from __future__ import annotations

import ctypes

import numpy as np
import xxhash

from taskarith.arithmetic.kernels.available import address, load_or_none

__all__ = ["Numbers", "chances_by_rank", "keep_by_chance", "keep_by_rank"]

_BLOCK = 512
"""Numbers that are drawn together; ``compiled.BLOCK``."""

_ROUNDS = 10
_LOW = 0xFFFFFFFF


class Numbers:
    """Random numbers by place: Philox4x32, keyed by seed, tensor and the delta's content, its counter the place.

    The key takes the content, not the place among the operands or the name of a file, so that neither the order of the
    operands nor the form of a vector changes a bit; operands that are equal there get one mask.

    :param seed: As the user gave it.
    :param tensor: Name of the delta.
    :param content: Fingerprint of the float64 elements that the numbers are for.
    """

    def __init__(self, seed: int, tensor: str, content: str) -> None:
        self.key = xxhash.xxh3_64_intdigest(f"{seed}\0{tensor}\0{content}".encode())

    def take(self, start: int, count: int) -> np.ndarray:
        """Return the numbers of elements ``start`` to ``start + count``: uint32."""
        first, kernels = start // _BLOCK, load_or_none("merge")
        blocks = -(-(start + count) // _BLOCK) - first
        if kernels is None:
            words = _philox(np.arange(first * _BLOCK // 4, (first + blocks) * _BLOCK // 4, dtype=np.uint64), self.key)
            words = words.reshape(4, blocks, -1).swapaxes(0, 1).reshape(-1)
        else:
            words = np.empty(blocks * _BLOCK, np.uint32)
            kernels.draw(first, blocks, _signed(self.key), words.ctypes.data)
        return words[start - first * _BLOCK :][:count]


def _philox(steps: np.ndarray, key: int) -> np.ndarray:
    """Return the four words of each step: uint32, 4 x steps; see ``arithmetic.kernels.philox``."""
    c0, c1, c2, c3 = steps & _LOW, steps >> 32, np.zeros_like(steps), np.zeros_like(steps)
    for number in range(_ROUNDS):
        k0, k1 = (key + number * 0x9E3779B9) & _LOW, ((key >> 32) + number * 0xBB67AE85) & _LOW
        one, other = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = other >> 32 ^ c1 ^ k0, other & _LOW, one >> 32 ^ c3 ^ k1, one & _LOW
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def _signed(key: int) -> int:
    return ctypes.c_int64(key).value


def keep_by_chance(
    values: np.ndarray, start: int, numbers: Numbers, density: float, rescale: bool, weight: float, out: np.ndarray
) -> np.ndarray:
    """Keep each element with probability ``density``, independently of all others (DARE), times a weight.

    Kept ones are divided by ``density``, as in the paper and in PEFT; mergekit restores the L1 norm of the tensor.

    :param values: float64, one after the other.
    :param start: Place of the first one in the tensor, a multiple of 512.
    :param numbers: Of the tensor's elements.
    :param out: Memory for the result.
    """
    if density >= 1:
        return np.multiply(values, weight, out=out)
    limit, divisor, kernels = round(density * 2**32), density if rescale else 1.0, load_or_none("merge")
    if kernels is None:
        kept = values * (numbers.take(start, len(values)) < np.uint64(limit)) / divisor
        return np.multiply(kept, weight, out=out)
    scratch = np.empty(_BLOCK, np.uint32)
    where = address(values), len(values), start // _BLOCK
    kernels.keep(*where, _signed(numbers.key), limit, divisor, weight, address(out), scratch.ctypes.data)
    return out


def chances_by_rank(columns: int, density: float, epsilon: float) -> np.ndarray:
    """Return the probabilities to be kept, from the least to the largest magnitude of a row: float64.

    They go from ``density - epsilon`` to ``density + epsilon``, evenly by rank, as in mergekit; the paper's epsilon is
    the whole width, twice this one. At density 1 all are 1.
    """
    if density >= 1 or columns < 2:
        return np.full(columns, min(density, 1.0))
    return density - epsilon + np.arange(columns) * (2 * epsilon / (columns - 1))


def keep_by_rank(
    rows: np.ndarray, numbers: np.ndarray, chances: np.ndarray, rescale: bool, weight: float, out: np.ndarray
) -> np.ndarray:
    """Keep the larger elements of each row with a larger probability (DELLA's MagPrune), times a weight.

    Of equal magnitudes the later one ranks higher. Kept ones are divided by their own probability, as in the paper;
    mergekit restores the L1 norm of the tensor.

    :param rows: float64, rows x columns.
    :param numbers: uint32, uniform, of the same shape.
    :param chances: By rank, as ``chances_by_rank`` returns them.
    :param out: Memory for the result, flat.
    """
    kernels, (count, columns) = load_or_none("merge"), rows.shape
    if kernels is not None and rows.size:
        scratch = np.empty(4 * columns + 8 * 256)
        given = address(rows), count, columns, numbers.ctypes.data, chances.ctypes.data, int(rescale)
        kernels.keep_ranked(*given, weight, address(out), scratch.ctypes.data)
        return out
    order = np.argsort(np.abs(rows), axis=1, kind="stable")
    likely = np.empty(rows.shape)
    np.put_along_axis(likely, order, np.broadcast_to(chances, rows.shape), axis=1)
    kept = rows * (numbers < likely * 2.0**32)
    return np.multiply((kept / likely if rescale else kept).ravel(), weight, out=out)
