"""The largest elements and rows, found in pieces: the same as by sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskarith.arithmetic import selection
from taskarith.arithmetic.selection import KthLargest, Largest, largest_rows


@settings(max_examples=150)
@given(
    values=st.lists(st.floats(-10, 10) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324]), min_size=1, max_size=300),
    count=st.integers(0, 300),
    piece=st.integers(1, 90),
    room=st.sampled_from([1 << 20, 3]),
    sample=st.sampled_from([1 << 18, 20]),
)
def test_the_largest_elements_are_found_exactly(values, count, piece, room, sample):
    x = np.array(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_ROOM", room)
        patch.setattr(selection, "_SAMPLE", sample)
        search = Largest(count, len(x))
        pieces = [x[start : start + piece] for start in range(0, len(x), piece)]
        for _ in range(6):
            if search.is_known:
                break
            for one in pieces:
                search.scan(one)
            search.end_scan()
    expected = np.zeros(len(x), dtype=bool)
    expected[np.argsort(-np.abs(x), kind="stable")[:count]] = True
    assert (np.concatenate([search.mask(one) for one in pieces]) == expected).all()


@pytest.mark.parametrize(("bits", "passes"), [(32, 2), (64, 4)])
def test_the_kth_largest_integer_is_known_after_a_pass_for_each_16_bits(bits, passes):
    values = np.array([7, 7, 1 << (bits - 1), 6, (1 << 17) + 3, 7], dtype=f"uint{bits}")
    search = KthLargest(4, bits)
    for _ in range(passes):
        assert not search.is_known
        search.add(search.histogram(values[:2]))
        search.add(search.histogram(values[2:]))
        search.narrow()
    assert search.is_known
    assert (search.prefix, search.rest) == (7, 2)  # two of the three sevens are among the four largest


def test_of_rows_with_equal_norms_the_first_are_kept():
    assert largest_rows(np.array([1.0, 4.0, 4.0, 9.0, 4.0]), 3).tolist() == [False, True, True, True, False]
    assert largest_rows(np.array([1.0, 4.0]), 0).tolist() == [False, False]
