"""Changes of bits: any elements come back, whatever they are, however they are cut, with kernels and without."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit, types

from taskarith.arithmetic import ulp_codec as folding
from taskarith.arithmetic.kernels import ulp_unpack as unpacking
from taskarith.arithmetic.ulp_codec import RUN, Folded, fold
from taskarith.checkpoints.header import ITEM_SIZES

# zeros of both signs, subnormals, one, the largest, infinities, NaNs quiet and signalling with payloads, as bfloat16
HOSTILE = [0, 0x8000, 1, 0x8001, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 0xFFFF]


@st.composite
def sides(draw):
    """Two arrays of one dtype, as bytes; a share of the elements is equal, some patterns are hostile, some near."""
    dtype = draw(st.sampled_from(["BF16", "F16", "F32", "F64"]))
    width, count = ITEM_SIZES[dtype], draw(st.sampled_from([1, 3, 8, 9, 511, 512, 513, 1500]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    before = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    after = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    for side in (before, after):
        picked = generator.random(count) < 0.3
        side[picked] = generator.choice(HOSTILE, int(picked.sum())).astype(side.dtype) << np.uint8(8 * width - 16)
    near = generator.random(count) < draw(st.sampled_from([0.0, 0.8, 0.99]))
    after[near] = before[near] + generator.geometric(0.1, int(near.sum())).astype(before.dtype)
    equal = generator.random(count) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    after[equal] = before[equal]
    return memoryview(bytearray(before)), memoryview(bytearray(after)), dtype


def read(folded, before, cuts):
    room, width = memoryview(bytearray(len(before))), ITEM_SIZES[folded.dtype]
    edges = sorted({0, folded.count, *(cut % (folded.count + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        folded.read(start, room[start * width : stop * width], before[start * width : stop * width])
    return bytes(room)


@given(sides(), st.lists(st.integers(0, 1500), max_size=5), st.booleans(), st.booleans())
def test_what_is_folded_comes_back(both, cuts, folds_with_numpy, reads_with_numpy):
    before, after, dtype = both
    with pytest.MonkeyPatch.context() as patch:
        if folds_with_numpy:
            patch.setattr(folding, "load_or_none", lambda: None)
        data, moved = fold(before, after, dtype)
    width = ITEM_SIZES[dtype]
    kind = f"<u{width}"
    assert moved == np.count_nonzero(np.frombuffer(before, kind) != np.frombuffer(after, kind))
    with pytest.MonkeyPatch.context() as patch:
        if reads_with_numpy:
            patch.setattr(folding, "load_or_none", lambda: None)
        folded = Folded(data, dtype, len(before) // width)
        assert read(folded, before, cuts) == bytes(after)
        last = len(before) // width - 1  # the first of a run alone, and after it an earlier one
        for start in (last // RUN * RUN, last // 2 // RUN * RUN):
            room = memoryview(bytearray(width))
            folded.read(start, room, before[start * width : (start + 1) * width])
            assert room == after[start * width : (start + 1) * width]


@given(sides())
def test_kernels_and_numpy_fold_alike(both):
    assert fold(*both) == folding._fold_with_numpy(*both)


def bits(*numbers):
    return memoryview(bytearray(np.array(numbers, "<u2")))


def head(both, least, most, entries):
    return struct.pack("<hBBI", both, least, most, entries)


def words(*numbers):
    return np.array(numbers, "<u2").tobytes()


def test_neighbours_in_order_are_one_apart():
    before = bits(0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F7F)  # 0, -0, 1, -1, the largest
    after = bits(0x0001, 0x0000, 0x3F81, 0xBF81, 0x7F80)  # one up, up, up, down, up to infinity
    data, moved = fold(before, after, "BF16")
    assert moved == 5
    assert data[3] == data[2] == 2  # bits of each change
    stream = bytes([0b01_10_10_10, 0b10])  # a sign is the lowest bit, and the first change comes first
    assert data[4:] == bytes(4) + words(10) + words(0) + stream


def test_few_large_changes_lie_beside_the_stream():
    before, after = bits(*[0x3F80] * 600), bits(*[0x3F80] * 600)
    after[2 * 3 : 2 * 4], after[2 * 550 : 2 * 551] = bits(0x3F81), bits(0x3F80 + 100)
    data, moved = fold(before, after, "BF16")
    assert moved == 2
    entries = words(3 | 2 << 9, 38 | (200 & 127) << 9, 38 | 200 >> 7 << 9)  # seven bits of a change each
    assert data[2:] == bytes([0, 0]) + struct.pack("<I", 3) + words(0, 0) + words(1, 2) + entries


def test_a_change_has_a_bit_less_for_each_step_of_the_exponent():
    powers = np.repeat(np.arange(110, 121), 1000)
    before = powers << 7 | 5
    changes = (np.random.default_rng(0).random(len(powers)) * 2.0 ** (118 - powers)).astype(int)
    data, _ = fold(bits(*before), bits(*(before + changes)), "BF16")
    assert (struct.unpack("<h", data[:2])[0], data[2], data[3]) == (119, 0, 9)  # with the sign, which is one bit


def test_a_run_without_changes_takes_no_bits():
    before, after = bits(*[0x3F80] * 1024), bits(*[0x3F80] * 512, *[0x3F81] * 512)
    data, _ = fold(before, after, "BF16")
    assert data[4:] == bytes(4) + words(0, 1024) + words(0, 0) + bytes([0b10_10_10_10]) * 128


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 14), min_size=4, max_size=4))
def test_bits_are_spread_alike_on_all_processors(number, widths):
    masks = sum(((1 << width) - 1) << (16 * lane) for lane, width in enumerate(widths))
    expected, rest = 0, number
    for lane, width in enumerate(widths):
        expected |= (rest & ((1 << width) - 1)) << (16 * lane)
        rest >>= width
    for spread in SPREADS:
        assert spread(np.uint64(number), np.uint64(masks)) == expected


def compiled(function):
    return njit(types.uint64(types.uint64, types.uint64))(lambda number, masks: function(number, masks))  # noqa: PLW0108


SPREADS = [compiled(unpacking.spread), compiled(unpacking._spread)]

TWOS = head(0, 2, 2, 1)
SOUND = TWOS + words(8) + words(1) + words(0) + b"1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SOUND[:7],
        head(0, 2, 2, 1),
        head(0, 3, 2, 1) + SOUND[8:],
        head(0, 2, 15, 1) + SOUND[8:],
        head(0, 2, 2, 2**32 - 1) + SOUND[8:],
    ],
)
def test_sizes_that_do_not_fit_are_refused(data):
    Folded(SOUND, "BF16", 4)
    with pytest.raises(ValueError, match="do not fit"):
        Folded(data, "BF16", 4)


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
        monkeypatch.setattr(folding, "load_or_none", lambda: None)
    room, before = memoryview(bytearray(8)), memoryview(bytearray(8))
    Folded(SOUND, "BF16", 4).read(0, room, before)
    with pytest.raises(ValueError, match="do not fit"):
        Folded(data, "BF16", 4).read(0, room, before)


@pytest.mark.parametrize("with_numpy", [False, True])
def test_a_wrong_base_and_endless_entries_stay_inside(monkeypatch, with_numpy):
    if with_numpy:
        monkeypatch.setattr(folding, "load_or_none", lambda: None)
    wide = head(14, 2, 14, 0) + words(8) + words(0) + b"1"  # other exponents than the eight bits were written for
    Folded(wide, "BF16", 4).read(0, memoryview(bytearray(8)), bits(*[0x0080] * 4))
    many = head(0, 2, 2, 40) + words(8) + words(40) + words(*[1 | 127 << 9] * 40) + b"1"
    Folded(many, "BF16", 4).read(0, memoryview(bytearray(8)), memoryview(bytearray(8)))


def test_elements_that_are_not_there_are_refused():
    folded = Folded(SOUND, "BF16", 4)
    for start, size in ((3, 4), (-1, 2), (4, 2)):
        with pytest.raises(ValueError, match="no such elements"):
            folded.read(start, memoryview(bytearray(size)), memoryview(bytearray(size)))
    with pytest.raises(ValueError, match="multiple of 512"):
        folded.read(3, memoryview(bytearray(2)), memoryview(bytearray(2)))
