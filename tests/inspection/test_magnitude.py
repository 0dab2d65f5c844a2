"""How large values are and how far apart: the kernels and numpy say the same, whatever the values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from taskarith.arithmetic.encoding import decode, encode
from taskarith.arithmetic.kernels.available import load_or_none
from taskarith.arithmetic.kernels.compile import load_kernels
from taskarith.inspection.magnitude import Magnitude, compare, measure

SPECIAL = [[], [math.inf], [math.nan, -math.inf], [-0.0], [0.0] * 5]
KERNELS = "taskarith.inspection.magnitude.load_or_none"


@pytest.fixture(autouse=True)
def _compiled():
    load_kernels("distances")


def numbers(magnitude):
    return magnitude.largest, magnitude.zeros, magnitude.nonfinite, pytest.approx(magnitude.norm, rel=1e-12)


def both(monkeypatch, run):
    """Run with kernels, which are seen to be asked for, and without them."""
    asked = []

    def seen(group):
        asked.append(group)
        return load_or_none(group)

    monkeypatch.setattr(KERNELS, seen)
    compiled = run()
    assert asked
    monkeypatch.setattr(KERNELS, lambda _group: None)
    return compiled, run()


def random(scale, special, count=200_000):
    values = scale * np.random.default_rng(count).standard_normal((2, count))
    values[1, ::5] = values[0, ::5]
    values[:, : len(special)] = special
    return values


@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e120, 0.0])
@pytest.mark.parametrize("special", SPECIAL, ids=str)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_sizes(monkeypatch, dtype, special, scale):
    data = encode_all(random(scale, special)[0], dtype)

    def run():
        size = Magnitude()
        measure(data, dtype, size)
        return size

    compiled, plain = both(monkeypatch, run)
    assert numbers(plain) == (compiled.largest, compiled.zeros, compiled.nonfinite, compiled.norm)
    wide = decode(data, dtype)
    finite = wide[np.isfinite(wide)]
    assert compiled.zeros == np.count_nonzero(finite == 0)
    assert compiled.nonfinite == wide.size - finite.size
    assert compiled.largest == np.abs(finite).max(initial=0)


@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e120, 0.0])
@pytest.mark.parametrize("special", SPECIAL, ids=str)
@pytest.mark.parametrize(("dtype", "other"), [("F32", "BF16"), ("F64", "F64"), ("F16", "F16"), ("BF16", "F64")])
def test_distances(monkeypatch, dtype, other, special, scale):
    values = random(scale, special)
    left, right = encode_all(values[0], dtype), encode_all(values[1], other)

    def run():
        distance, size = Magnitude(), Magnitude()
        return compare(left, dtype, right, other, distance, size), distance, size

    (count, *compiled), (same_count, *plain) = both(monkeypatch, run)
    assert count == same_count
    for one, two in zip(compiled, plain, strict=True):
        assert (one.largest, one.nonfinite) == (two.largest, two.nonfinite)
        assert one.norm == pytest.approx(two.norm, rel=1e-12)


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F8_E4M3"])
def test_bits_of_other_dtypes_are_compared_by_numpy_alone(dtype):
    left = bytes(range(64)) * 8
    right = left[:8] + bytes(8) + left[16:]
    for side in (left, right):
        distance, size = Magnitude(), Magnitude()
        found = compare(left, dtype, side, dtype, distance, size)
        assert found == (0 if side is left else {"I64": 1}.get(dtype, 8))
        assert numbers(distance) == numbers(size) == (0.0, 0, 0, 0.0)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "I64"])
def test_nothing_is_nothing(dtype):
    distance, size = Magnitude(), Magnitude()
    assert compare(b"", dtype, b"", dtype, distance, size) == 0
    assert size.norm == distance.norm == 0


def test_pieces_are_of_whole_elements(monkeypatch):
    monkeypatch.setattr(KERNELS, lambda _group: None)
    monkeypatch.setattr("taskarith.inspection.magnitude._PIECE", 7)
    for dtype, other in itertools.product(["F64", "F32", "F16", "BF16"], repeat=2):
        values = random(1.0, [], 30)
        left, right = encode_all(values[0], dtype), encode_all(values[1], other)
        distance, size = Magnitude(), Magnitude()
        count = compare(left, dtype, right, other, distance, size)
        a, b = decode(left, dtype), decode(right, other)
        assert count == np.count_nonzero(a != b)
        assert distance.norm == pytest.approx(np.linalg.norm(a - b), rel=1e-14)
        assert size.norm == pytest.approx(np.linalg.norm(a), rel=1e-14)


def encode_all(values, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        return bytes(encode(values, dtype))
