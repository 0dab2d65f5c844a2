"""SLERP, NuSLERP, the Karcher mean and Model Stock: golden values, worked out by hand or by mergekit."""

from __future__ import annotations

import math

import numpy as np
from merging import merge, method

from taskarith.merging import slerp_stock as sphere


def test_slerp():
    # a quarter circle from (1, 0) to (0, 2) around a base of (0, 0); half way both get sin 45° = 1 / sqrt 2
    root = math.sqrt(0.5)
    half = merge(method("slerp"), [[1.0, 0], [0, 2.0]], [0.5, 0.5], base=np.zeros(2))
    assert np.allclose(half, [root, 2 * root], rtol=1e-15)
    third = merge(method("slerp"), [[1.0, 0], [0, 2.0]], [2.0, 1.0], base=np.zeros(2))  # 1/3 of the way
    assert np.allclose(third, [math.cos(math.pi / 6), 1.0], rtol=1e-15)
    # from (3, 0) and (0, 3) around a base of (1, 1): the point is (3, 3) / sqrt 2
    point = merge(method("slerp"), [[2.0, -1], [-1, 2.0]], base=np.ones(2))
    assert np.allclose(point, [3 * root - 1] * 2, rtol=1e-15)
    # nearly the same direction: straight
    assert np.allclose(merge(method("slerp"), [[1e-3, 0], [0, 1e-3]], base=np.ones(2)), [5e-4] * 2, rtol=1e-12)


def test_nuslerp_gives_the_numbers_of_mergekit():
    one, two = [2.0, -1.0, 0.5], [-1.0, 2.0, 3.0]
    got = merge(method("nuslerp"), [one, two], [0.7, 0.3])
    assert np.allclose(got, [1.463043880952221, 0.10147389640660943, 2.1705852834839483], rtol=1e-14)
    assert np.allclose(merge(method("nuslerp"), [one, two], [1.4, 0.6], -0.5), -0.5 * got, rtol=1e-14)
    half = merge(method("nuslerp"), [one, [0.0] * 3], [0.7, 0.3])  # a delta of zero is at a right angle
    assert np.allclose(half, [1.7820130483767356, -0.8910065241883678, 0.4455032620941839], rtol=1e-14)
    # one direction: straight
    assert np.allclose(merge(method("nuslerp"), [one, [4.0, -2.0, 1.0]], [0.7, 0.3]), [2.6, -1.3, 0.65], rtol=1e-14)


def test_karcher_gives_the_numbers_of_mergekit():
    base = np.array([1.0, 2.0, -1.0, 0.5])
    deltas = [[0.5, 0.0, 1.0, 0.0], [-1.0, 0.25, 0.0, 0.75], [0.0, -2.0, 0.5, 0.5]]
    got = merge(method("karcher"), deltas, base=base)
    expected = [0.13604919057588916, -0.5735643566823532, 0.367279672453375, 0.6952091907172797]
    assert np.allclose(got, expected, rtol=1e-13)
    got = merge(method("karcher"), [*deltas[:2], [0.0] * 4], base=base)  # the base is one of the models
    expected = [-0.09368303934062183, 0.20443410898567382, 0.30212793547358496, 0.2815716049823852]
    assert np.allclose(got, expected, rtol=1e-13)
    # a quarter circle: a third of the way to what has half the weight of the other; norms 1 and 2
    third = merge(method("karcher"), [[1.0, 0], [0, 2.0]], [2.0, 1.0], base=np.zeros(2))
    assert np.allclose(third, np.array([math.cos(math.pi / 6), 0.5]) * 4 / 3, rtol=1e-5)
    # directions that cancel each other have no mean; models of zeros have none either
    assert merge(method("karcher"), [[1.0, 2.0], [-1.0, -2.0]], base=np.zeros(2)).tolist() == [0, 0]
    assert merge(method("karcher"), [[1.0, 2.0], [1.0, 2.0]], base=np.array([-1.0, -2.0])).tolist() == [1, 2]


def test_model_stock():
    # cos 60° = 1/2 of two: t = 2 * 1/2 / (1 + 1/2) = 2/3 of their mean
    one, two = [2.0, 0], [1.0, math.sqrt(3)]
    assert np.allclose(merge(method("model_stock"), [one, two]), np.array([1.5, math.sqrt(3) / 2]) * 2 / 3, rtol=1e-15)
    assert np.allclose(merge(method("model_stock"), [one, one, one]), one, rtol=1e-15)
    assert merge(method("model_stock"), [[1.0, 0], [0, 1.0]]).tolist() == [0, 0]
    assert merge(method("model_stock"), [one, [-2.0, 0]]).tolist() == [0, 0]  # opposite: no estimate
    assert sphere.stock_ratio([0.5, 0.5, 0.5], 3) == 3 * 0.5 / 2
