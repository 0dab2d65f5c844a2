"""Changes of bits: any elements come back, whatever they are, however they are cut, with kernels and without."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskarith.arithmetic import folding
from taskarith.arithmetic.folding import RUN, Folded, fold

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
            patch.setattr(folding, "load_or_none", lambda: None)
        folded, moved = fold(before, after, width)
    kind = f"<u{width}"
    assert moved == np.count_nonzero(np.frombuffer(before, kind) != np.frombuffer(after, kind))
    with pytest.MonkeyPatch.context() as patch:
        if reads_with_numpy:
            patch.setattr(folding, "load_or_none", lambda: None)
        assert read(folded, before, width, cuts) == bytes(after)
        last = len(before) // width - 1  # the first of a run alone, and after it an earlier one
        for start in (last // RUN * RUN, last // 2 // RUN * RUN):
            room = memoryview(bytearray(width))
            folded.read(start, room, before[start * width : (start + 1) * width])
            assert room == after[start * width : (start + 1) * width]


@given(sides())
def test_kernels_and_numpy_fold_alike(both):
    folded, _ = fold(*both)
    again, _ = folding._fold_with_numpy(*both)
    for part in ("widths", "lengths", "stream", "gaps", "high"):
        assert getattr(folded, part) == getattr(again, part)


def bits(*numbers):
    return memoryview(bytearray(np.array(numbers, "<u2")))


def test_neighbours_in_order_are_one_apart():
    before = bits(0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F7F)  # 0, -0, 1, -1, the largest
    after = bits(0x0001, 0x0000, 0x3F81, 0xBF81, 0x7F80)  # one up, up, up, down, up to infinity
    folded, moved = fold(before, after, 2)
    assert moved == 5
    assert {exponent: folded.widths[exponent] for exponent in (0, 0x7F, 0xFE, 1)} == {0: 2, 0x7F: 2, 0xFE: 2, 1: 0}
    assert folded.stream == bytes([0b01_10_10_10, 0b10])  # a sign is the lowest bit, and the first change comes first
    assert (folded.lengths, folded.gaps, folded.high) == (b"\x0a\0", b"", b"")


def test_few_large_changes_lie_beside_the_stream():
    before, after = bits(*[0x3F80] * 600), bits(*[0x3F80] * 600)
    after[2 * 3 : 2 * 4], after[2 * 550 : 2 * 551] = bits(0x3F81), bits(0x3F83)
    folded, moved = fold(before, after, 2)
    assert moved == 2
    assert (folded.widths, folded.stream, folded.lengths) == (bytes(256), b"", bytes(4))
    assert folded.gaps == bytes([3, 547 % 256, 0, 2, 0, 0, 0, 0])  # 3 and 547: lowest bytes, second ones, and so on
    assert folded.high == bytes([2, 6, 0, 0])


def test_a_run_without_changes_takes_no_bits():
    before, after = bits(*[0x3F80] * 1024), bits(*[0x3F80] * 512, *[0x3F81] * 512)
    folded, _ = fold(before, after, 2)
    assert folded.widths[0x7F] == 2
    assert folded.lengths == bytes([0, 0, 0, 4])  # 0 and 1024
    assert folded.stream == bytes([0b10_10_10_10]) * 128


PARTS = {"widths": bytes([2]) * 256, "lengths": b"\x08\0", "stream": b"1", "gaps": bytes(4), "high": b"12"}


@pytest.mark.parametrize(
    "change",
    [
        {"widths": bytes([2]) * 255},
        {"widths": bytes([17]) * 256},
        {"lengths": b""},
        {"lengths": b"\x09\0"},
        {"stream": b""},
        {"gaps": bytes(8)},
        {"high": b"1"},
    ],
)
def test_sizes_that_do_not_fit_are_refused(change):
    Folded(2, 4, **PARTS)
    with pytest.raises(ValueError, match="do not fit"):
        Folded(2, 4, **PARTS | change)


@pytest.mark.parametrize("with_numpy", [False, True])
def test_changes_outside_are_refused_and_a_wrong_base_stays_inside(monkeypatch, with_numpy):
    if with_numpy:
        monkeypatch.setattr(folding, "load_or_none", lambda: None)
    room = memoryview(bytearray(8))
    with pytest.raises(ValueError, match="outside"):
        Folded(2, 4, **PARTS | {"gaps": b"\4\0\0\0"}).read(0, room, memoryview(bytearray(8)))
    wide = PARTS | {"widths": bytes([2]) + bytes([16]) * 255}  # other exponents than the eight bits were written for
    Folded(2, 4, **wide).read(0, room, bits(*[0x3F80] * 4))


def test_elements_that_are_not_there_are_refused():
    folded = Folded(2, 4, **PARTS)
    for start, size in ((3, 4), (-1, 2), (4, 2)):
        with pytest.raises(ValueError, match="no such elements"):
            folded.read(start, memoryview(bytearray(size)), memoryview(bytearray(size)))
    with pytest.raises(ValueError, match="multiple of 512"):
        folded.read(3, memoryview(bytearray(2)), memoryview(bytearray(2)))
