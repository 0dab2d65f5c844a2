"""Changes read from a stream of bits: alike on all processors, and never beyond what is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit, types
from ulp_data import SOUND, TWOS, bits, head, words

from taskarith.arithmetic import ulp_codec as folding
from taskarith.arithmetic.kernels import ulp_unpack as unpacking
from taskarith.arithmetic.ulp_codec import Folded


def compiled(function):
    return njit(types.uint64(types.uint64, types.uint64))(lambda number, masks: function(number, masks))  # noqa: PLW0108


SPREADS = [compiled(unpacking.spread), compiled(unpacking._spread)]


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 14), min_size=4, max_size=4))
def test_bits_are_spread_alike_on_all_processors(number, widths):
    masks = sum(((1 << width) - 1) << (16 * lane) for lane, width in enumerate(widths))
    expected, rest = 0, number
    for lane, width in enumerate(widths):
        expected |= (rest & ((1 << width) - 1)) << (16 * lane)
        rest >>= width
    for spread in SPREADS:
        assert spread(np.uint64(number), np.uint64(masks)) == expected


@pytest.mark.parametrize("with_numpy", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        TWOS + words(9) + SOUND[10:],  # more bits than there are
        TWOS + words(0) + SOUND[10:],  # fewer
        SOUND + b"1",
        TWOS + words(8) + words(2) + SOUND[12:],  # more entries than there are
        TWOS + words(8) + words(0) + SOUND[12:],  # fewer
        TWOS + words(8) + words(1) + words(4) + b"1",  # one of a fifth element
        head(0, 2, 2, 2) + words(8) + words(2) + words(2, 1) + b"1",  # one behind the other
    ],
)
def test_changes_that_do_not_fit_are_refused(monkeypatch, with_numpy, data):
    if with_numpy:
        monkeypatch.setattr(folding, "load_or_none", lambda _: None)
    room, before = memoryview(bytearray(8)), memoryview(bytearray(8))
    Folded(SOUND, "BF16", 4).read(0, room, before)
    with pytest.raises(ValueError, match="do not fit"):
        Folded(data, "BF16", 4).read(0, room, before)


@pytest.mark.parametrize("with_numpy", [False, True])
def test_a_wrong_base_and_endless_entries_stay_inside(monkeypatch, with_numpy):
    if with_numpy:
        monkeypatch.setattr(folding, "load_or_none", lambda _: None)
    wide = head(14, 2, 14, 0) + words(8) + words(0) + b"1"  # other exponents than the eight bits were written for
    Folded(wide, "BF16", 4).read(0, memoryview(bytearray(8)), bits(*[0x0080] * 4))
    many = head(0, 2, 2, 40) + words(8) + words(40) + words(*[1 | 127 << 9] * 40) + b"1"
    Folded(many, "BF16", 4).read(0, memoryview(bytearray(8)), memoryview(bytearray(8)))
