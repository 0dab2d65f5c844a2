"""Factors as PEFT lays them out in its files."""

from __future__ import annotations

import numpy as np
import pytest

from taskarith.vectors.lora.write import pack_factors


def unpacked(lefts, rights, is_turned, rank):
    """Return what PEFT multiplies of the bytes: the delta of each expert."""
    a, b = (np.frombuffer(data, "<f4") for data in pack_factors(lefts, rights, is_turned, "F32"))
    count = len(lefts)
    a, b = a.reshape(count, rank, -1), b.reshape(-1, rank, count)
    return [(b[:, :, one] @ a[one]).T if is_turned else b[:, :, one] @ a[one] for one in range(count)]


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("ranks", [(2,), (2, 1, 3)])
def test_the_product_of_the_factors_is_the_delta(is_turned, ranks):
    rng = np.random.default_rng(0)
    lefts = [rng.integers(-4, 5, (5, rank)).astype(float) for rank in ranks]
    rights = [rng.integers(-4, 5, (rank, 3)).astype(float) for rank in ranks]
    found = unpacked(lefts, rights, is_turned, max(ranks))
    for delta, left, right in zip(found, lefts, rights, strict=True):
        assert np.array_equal(delta, left @ right)
