"""Random masks as compiled code: a block's numbers depend on its place alone, and decide what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from taskarith.arithmetic.kernels.available import load_or_none
from taskarith.arithmetic.kernels.layout import BLOCK

KERNELS = load_or_none("merge")


def draw(first, blocks, key):
    words = np.empty(blocks * BLOCK, np.uint32)
    KERNELS.draw(first, blocks, key, words.ctypes.data)
    return words


def test_a_step_gives_the_words_of_the_authors_own_code():
    # Random123 for a counter and a key of zero; the words of a step stand a quarter of a block apart
    assert draw(0, 1, 0)[:: BLOCK // 4].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("key", [0, 1, -1, 1 << 32])
def test_numbers_depend_on_place_and_key_alone(key):
    whole = draw(5, 4, key)
    assert (np.concatenate([draw(5, 1, key), draw(6, 3, key)]) == whole).all()
    assert len(set(whole.tolist())) > 0.99 * len(whole)
    assert not (draw(5, 4, key ^ 2) == whole).any()


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("limit", [0, 1 << 31, 1 << 32])
def test_what_is_kept_are_the_elements_whose_numbers_are_below_the_limit(count, limit):
    values = np.random.default_rng(0).normal(size=count)
    kept, scratch = np.empty(count), np.empty(BLOCK, np.uint32)
    KERNELS.keep(values.ctypes.data, count, 7, 42, limit, 0.5, -0.7, kept.ctypes.data, scratch.ctypes.data)
    numbers = draw(7, -(-count // BLOCK), 42)[:count].astype(np.int64)
    assert (kept == values * (numbers < limit) / 0.5 * -0.7).all()
    assert np.count_nonzero(kept) == np.count_nonzero(numbers < limit)
