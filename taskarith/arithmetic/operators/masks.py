"""Random masks that depend on nothing but seed, tensor, delta and place: whatever the chunks, threads and processes.

Sources: DARE, arXiv:2311.03099; DELLA, arXiv:2406.11617.
"""

from __future__ import annotations

import numpy as np
import xxhash

__all__ = ["Numbers", "keep_by_chance", "keep_by_rank"]

_STEP = 8
"""32-bit numbers of one step of Philox's counter."""


class Numbers:
    """Random numbers by place: Philox4x64, keyed by seed, tensor and the delta's content, its counter the place.

    The key takes the content, not the place among the operands or the name of a file, so that neither the order of the
    operands nor the form of a vector changes a bit; operands that are equal in a tensor get one mask there.

    :param seed: As the user gave it.
    :param tensor: Name of the delta.
    :param content: Fingerprint of the delta's float64 elements.
    """

    def __init__(self, seed: int, tensor: str, content: str) -> None:
        self._key = xxhash.xxh3_128_intdigest(f"{seed}\0{tensor}\0{content}".encode())

    def take(self, start: int, count: int) -> np.ndarray:
        """Return the numbers of elements ``start`` to ``start + count``: uint32."""
        step, first = divmod(start, _STEP)
        generator = np.random.Philox(key=self._key)
        generator.advance(step)
        words = generator.random_raw(-(-(first + count) // 2)).astype("<u8", copy=False)
        return words.view("<u4")[first : first + count]


def keep_by_chance(values: np.ndarray, numbers: np.ndarray, density: float, rescale: bool) -> np.ndarray:
    """Keep each element with probability ``density``, independently of all others (DARE).

    Kept ones are divided by ``density``, as in the paper and in PEFT; mergekit restores the L1 norm of the tensor.

    :param values: float64.
    :param numbers: uint32, uniform, as many.
    """
    if density >= 1:
        return values
    kept = values * (numbers < np.uint64(round(density * 2**32)))
    return np.divide(kept, density, out=kept) if rescale else kept


def keep_by_rank(rows: np.ndarray, numbers: np.ndarray, density: float, epsilon: float, rescale: bool) -> np.ndarray:
    """Keep the larger elements of each row with a larger probability (DELLA's MagPrune).

    From the least to the largest magnitude of a row the probability goes from ``density - epsilon`` to ``density +
    epsilon``, evenly by rank, as in mergekit; the paper's epsilon is the whole width, twice this one. Of equal
    magnitudes the later one ranks higher. Kept ones are divided by their own probability, as in the paper; mergekit
    restores the L1 norm of the tensor.

    :param rows: float64, rows x columns.
    :param numbers: uint32, uniform, of the same shape.
    """
    if density >= 1:
        return rows
    columns = rows.shape[1]
    order = np.argsort(np.abs(rows), axis=1, kind="stable")
    by_rank = (
        density - epsilon + np.arange(columns) * (2 * epsilon / (columns - 1)) if columns > 1 else np.array([density])
    )
    chances = np.empty(rows.shape)
    np.put_along_axis(chances, order, np.broadcast_to(by_rank, rows.shape), axis=1)
    kept = rows * (numbers < chances * 2.0**32)
    return np.divide(kept, chances, out=kept) if rescale else kept
