"""The kernels of merge methods give the bits of numpy, which calculates where there are none."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic import selection
from taskarith.arithmetic.kernels.available import load_or_none
from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.selection import Largest, keep_largest
from taskarith.merging import masks, sums

SIZES = st.sampled_from([1, 2, 7, 31, 32, 33, BLOCK - 1, BLOCK, 3 * BLOCK + 5, 2000])


@contextmanager
def numpy_alone():
    with pytest.MonkeyPatch.context() as patch:
        for module in (selection, masks, sums):
            patch.setattr(module, "load_or_none", lambda _: None)
        yield


def values(seed: int, size: int, digits: int) -> np.ndarray:
    """Return numbers of which many are equal, or zeros of either sign, if they have few digits."""
    return np.round(np.random.default_rng(seed).standard_normal(size), digits)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether the bits are the same, but for the sign of zeros, which an edit does not see."""
    return (one + 0.0).tobytes() == (other + 0.0).tobytes()


@given(
    count=st.integers(1, 5),
    size=SIZES,
    seed=st.integers(0, 99),
    digits=st.sampled_from([0, 1, 12]),
    alpha=st.sampled_from([1.0, -0.7]),
    normalize=st.sampled_from([None, True, False]),
)
def test_elected_and_plain_sums(count, size, seed, digits, alpha, normalize):
    weights = [alpha * weight for weight in np.random.default_rng(seed).uniform(0.1, 2, count)]
    parts = [weight * values(seed + number, size, digits) for number, weight in enumerate(weights)]
    elected, added = sums.elect(parts, weights, alpha, normalize), sums.merged_sum(parts, np.empty(size))
    assert same(added, sums.ordered_sum(parts))
    with numpy_alone():
        assert same(elected, sums.elect(parts, weights, alpha, normalize))


@given(
    sizes=st.lists(SIZES, min_size=1, max_size=3),
    seed=st.integers(0, 99),
    digits=st.sampled_from([0, 1, 12]),
    shares=st.sampled_from([(1.0, 0.0), (0.5, 0.0), (0.5, 0.2), (1.0, 0.3), (0.05, 0.01)]),
)
def test_the_largest_are_found_and_kept(sizes, seed, digits, shares):
    pieces = [values(seed + number, size, digits) for number, size in enumerate(sizes)]
    counts = [int(share * sum(sizes)) for share in shares]

    def kept() -> list[np.ndarray]:
        searches = [Largest(count, sum(sizes)) for count in counts]
        for search in searches:
            while not search.is_known:
                for piece in pieces:
                    search.scan(piece)
                search.end_scan()
        return [keep_largest(piece, *searches, -0.3, np.empty(len(piece))) for piece in pieces]

    found = kept()
    whole = np.concatenate(pieces)
    order = np.argsort(-np.abs(whole), kind="stable")
    expected = np.zeros(len(whole))
    expected[order[counts[1] : counts[0]]] = whole[order[counts[1] : counts[0]]] * -0.3
    assert same(np.concatenate(found), expected)
    with numpy_alone():
        assert same(np.concatenate(kept()), expected)


@given(
    shape=st.sampled_from([(1, 1), (3, 1), (1, 7), (4, 300), (2, 1025)]),
    seed=st.integers(0, 99),
    digits=st.sampled_from([0, 1, 12]),
    density=st.sampled_from([0.3, 0.5, 1.0]),
    rescale=st.booleans(),
)
def test_the_chance_to_be_kept_follows_the_rank(shape, seed, digits, density, rescale):
    rows = values(seed, shape[0] * shape[1], digits).reshape(shape)
    numbers = masks.Numbers(seed, "w", "content").take(0, rows.size).reshape(shape)
    chances = masks.chances_by_rank(shape[1], density, 0.15)
    found = masks.keep_by_rank(rows, numbers, chances, rescale, 1.7, np.empty(rows.size))
    with numpy_alone():
        assert same(found, masks.keep_by_rank(rows, numbers, chances, rescale, 1.7, np.empty(rows.size)))
    if density == 1:
        assert same(found, rows.ravel() * 1.7)


def test_more_near_the_guess_than_there_is_room_for_are_counted():
    kernels, part = load_or_none("merge"), np.array([1.0, -2.0, 3.0, -2.5, 2.0, 9.0])
    bounds, counts, out = np.array([1.0, 2.0, 3.0]), np.zeros(2, np.int64), np.zeros(2)
    addresses = (bounds.ctypes.data, counts.ctypes.data, out.ctypes.data)
    assert kernels is not None
    assert kernels.near(part.ctypes.data, len(part), *addresses, len(out)) == 3
    assert counts.tolist() == [1, 2]
    assert out.tolist() == [1, 3]
