"""Changes of bits: any elements come back, whatever they are, however they are cut, with kernels and without."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic import folding
from taskarith.arithmetic.folding import Folded, Mask, fold

# zeros of both signs, subnormals, one, the largest, infinities, NaNs quiet and signalling with payloads, as bfloat16
HOSTILE = [0, 0x8000, 1, 0x8001, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 0xFFFF]


@st.composite
def sides(draw):
    """Two arrays of one dtype, as bytes; a share of the elements is equal, some patterns are hostile."""
    width = draw(st.sampled_from([2, 4, 8]))
    count = draw(st.sampled_from([1, 3, 8, 9, 511, 512, 513, 1500]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    before = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    after = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    for side in (before, after):
        picked = generator.random(count) < 0.3
        side[picked] = generator.choice(HOSTILE, int(picked.sum())).astype(side.dtype) << np.uint8(8 * width - 16)
    equal = generator.random(count) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    after[equal] = before[equal]
    return memoryview(bytearray(before)), memoryview(bytearray(after)), width


def read(folded, before, width, cuts):
    room = memoryview(bytearray(len(before)))
    edges = sorted({0, len(before) // width, *(cut % (len(before) // width + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        folded.read(start, room[start * width : stop * width], before[start * width : stop * width])
    return bytes(room)


@given(sides(), st.lists(st.integers(0, 1500), max_size=5), st.booleans(), st.booleans())
def test_what_is_folded_comes_back(both, cuts, folds_with_numpy, reads_with_numpy):
    before, after, width = both
    with pytest.MonkeyPatch.context() as patch:
        if folds_with_numpy:
            patch.setattr(folding, "_kernels", lambda: None)
        folded, moved = fold(before, after, width)
    kind = f"<u{width}"
    assert moved == np.count_nonzero(np.frombuffer(before, kind) != np.frombuffer(after, kind))
    with pytest.MonkeyPatch.context() as patch:
        if reads_with_numpy:
            patch.setattr(folding, "_kernels", lambda: None)
        assert read(folded, before, width, cuts) == bytes(after)
        last = len(before) // width - 1  # one element alone, and after it an earlier one
        for start in (last, last // 2):
            room = memoryview(bytearray(width))
            folded.read(start, room, before[start * width : (start + 1) * width])
            assert room == after[start * width : (start + 1) * width]


@given(sides())
def test_kernels_and_numpy_fold_alike(both):
    folded, _ = fold(*both)
    again, _ = folding._fold_with_numpy(*both)
    masks = [one.mask and one.mask.data for one in (folded, again)]
    assert masks[0] == masks[1]
    assert list(folded.planes) == list(again.planes)


def test_neighbours_in_order_are_one_apart():
    before = np.array([0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F7F], "<u2")  # 0, -0, 1, -1, the largest
    after = np.array([0x0001, 0x0000, 0x3F81, 0xBF81, 0x7F80], "<u2")  # one up, up, up, down, up to infinity
    folded, moved = fold(memoryview(bytearray(before)), memoryview(bytearray(after)), 2)
    assert moved == 5
    assert folded.planes == [bytes([2, 2, 2, 1, 2]), bytes(5)]
    assert folded.mask is None


def test_unmoved_elements_take_a_bit_each():
    before, after = bytearray(64), bytearray(64)
    after[6] = 1  # element 3
    folded, _ = fold(memoryview(before), memoryview(after), 2)
    assert folded.mask.data == bytes([8, 0, 0, 0])
    assert folded.planes == [b"\2", b"\0"]


@pytest.mark.parametrize(
    ("planes", "mask"),
    [
        ([b"12", b""], None),
        ([b"123", b"1234"], None),
        ([b"1", b"1"], b"\x10"),
        ([b"1", b"1"], b"\x03"),
        ([b"1", b"1"], b"\1\0"),
        ([b"1", b"1"], b""),
    ],
)
def test_sizes_that_do_not_fit_are_refused(planes, mask):
    with pytest.raises(ValueError, match=r"do(es)? not fit"):
        Folded(planes, 4, None if mask is None else Mask(mask, 4))


def test_elements_that_are_not_there_are_refused():
    folded = Folded([b"1234", b""], 4)
    for start, size in ((3, 4), (-1, 2), (4, 2)):
        with pytest.raises(ValueError, match="no such elements"):
            folded.read(start, memoryview(bytearray(size)), memoryview(bytearray(size)))
