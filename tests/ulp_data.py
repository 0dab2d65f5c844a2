"""Changes in units in the last place as bytes, written by hand."""

from __future__ import annotations

import struct

import numpy as np


def bits(*numbers):
    return memoryview(bytearray(np.array(numbers, "<u2")))


def head(both, least, most, entries):
    return struct.pack("<hBBI", both, least, most, entries)


def words(*numbers):
    return np.array(numbers, "<u2").tobytes()


TWOS = head(0, 2, 2, 1)
SOUND = TWOS + words(8) + words(1) + words(0) + b"1"
"""Four elements in one run: two bits of each change in the stream, and one entry."""
