"""Changes of bits: any elements come back, whatever they are, however they are cut, with kernels and without."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulp_data import SOUND, head

from taskarith.arithmetic import ulp_codec as folding
from taskarith.arithmetic.ulp_codec import RUN, Folded, fold, most_folded
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
            patch.setattr(folding, "load_or_none", lambda _: None)
        data, moved = fold(before, after, dtype)
    width = ITEM_SIZES[dtype]
    kind = f"<u{width}"
    assert moved == np.count_nonzero(np.frombuffer(before, kind) != np.frombuffer(after, kind))
    with pytest.MonkeyPatch.context() as patch:
        if reads_with_numpy:
            patch.setattr(folding, "load_or_none", lambda _: None)
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


def test_elements_that_are_not_there_are_refused():
    folded = Folded(SOUND, "BF16", 4)
    for start, size in ((3, 4), (-1, 2), (4, 2)):
        with pytest.raises(ValueError, match="no such elements"):
            folded.read(start, memoryview(bytearray(size)), memoryview(bytearray(size)))
    with pytest.raises(ValueError, match="multiple of 512"):
        folded.read(3, memoryview(bytearray(2)), memoryview(bytearray(2)))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("count", [1, 511, 512, 513, 40_000])
def test_no_changes_take_more_than_is_said(dtype, count):
    rng = np.random.default_rng(count)
    before, after = (bytearray(rng.bytes(ITEM_SIZES[dtype] * count)) for _ in range(2))
    data, _ = fold(memoryview(before), memoryview(after), dtype)
    assert len(data) <= most_folded(count, dtype)
