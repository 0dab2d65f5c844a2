"""Changes packed into a stream of bits: the layout, worked out by hand."""

from __future__ import annotations

import struct

import numpy as np
from ulp_data import bits, words

from taskarith.arithmetic.ulp_codec import fold


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
