"""Operators that merge deltas: golden values, laws, PEFT, and options that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import BETWEEN_TWO, DENSE, merge, method
from peft.utils import merge_utils

from taskarith.arithmetic import selection
from taskarith.arithmetic.calculator import LowRank
from taskarith.arithmetic.selection import Largest
from taskarith.errors import UsageError
from taskarith.merging import core_space as core
from taskarith.merging import masks, spectral
from taskarith.merging import slerp_stock as sphere
from taskarith.merging.methods import parse_method
from taskarith.merging.sums import elect, ordered_sum

# golden values, worked out by hand


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree():
    one, two = [4.0, -3.0, 0.5, 2.0], [-1.0, -5.0, 0.25, 3.0]
    # of 4 elements floor(0.5 * 4) = 2 are kept: (4, -3, 0, 0) and (0, -5, 0, 3)
    assert merge(method("ties", 0.5), [one, two]).tolist() == [4, -4, 0, 3]
    assert merge(method("ties", 0.5), [one, two], [0.5, 2]).tolist() == [2, (-1.5 - 10) / 2, 0, 6]
    # mergekit's normalize: the sum over the sum of the coefficients that agree; and its plain sum
    assert merge(method("ties", 0.5, normalize=True), [one, two], [0.5, 2]).tolist() == [4, -11.5 / 2.5, 0, 3]
    assert merge(method("ties", 0.5, normalize=False), [one, two], [0.5, 2]).tolist() == [2, -11.5, 0, 6]
    # at density 1 the first element: 4 - 1 is positive, so -1 is left out
    assert merge(method("ties", 1.0), [one, two]).tolist() == [4, -4, 0.375, 2.5]
    # alpha multiplies the merged delta, whatever its sign; with normalize too
    for normalize in (None, True, False):
        how = method("ties", 0.5, normalize=normalize)
        assert (merge(how, [one, two], [0.5, 2], -0.5) == -0.5 * merge(how, [one, two], [0.5, 2])).all()


def test_a_sum_of_zero_elects_plus_before_alpha():
    for alpha in (1.0, -2.0):
        assert merge(method("ties", 1.0), [[2.0], [-2.0]], alpha=alpha).tolist() == [2 * alpha]


def test_of_equal_magnitudes_the_first_are_kept_and_never_none():
    assert merge(method("ties", 0.5), [[1.0, -1.0, 1.0, 1.0]]).tolist() == [1, -1, 0, 0]
    assert merge(method("ties", 0.01), [[1.0, -2.0, 1.0]]).tolist() == [0, -2, 0]


def test_breadcrumbs_leaves_out_the_largest_and_the_smallest():
    delta = [5.0, -1.0, 4.0, 0.1, -3.0, 2.0, 0.2, 0.3, 6.0, 0.4]
    # gamma 0.2: without 6 and 5; density 0.3: then 4, -3, 2
    assert merge(method("breadcrumbs", 0.3, gamma=0.2), [delta]).tolist() == [0, 0, 4, 0, -3, 2, 0, 0, 0, 0]
    assert merge(method("breadcrumbs", 0.9, gamma=0.2), [delta]).tolist() == [*delta[:8], 0, delta[9]]
    assert merge(method("breadcrumbs", 1.0, gamma=0.2), [delta]).tolist() == delta
    two = [-value for value in delta]
    assert merge(method("breadcrumbs", 0.3, gamma=0.2), [delta, two]).tolist() == [0] * 10
    assert merge(method("breadcrumbs_ties", 0.3, gamma=0.2), [delta, two]).tolist() == [0, 0, 4, 0, 3, 2, 0, 0, 0, 0]


def test_masks_are_bernoulli_rescaled_and_repeatable():
    delta = np.arange(1.0, 200_001.0)
    got = merge(method("dare_linear", 0.25), [delta])
    kept = got != 0
    assert (got[kept] == delta[kept] / 0.25).all()
    assert abs(kept.mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(delta))
    assert (merge(method("dare_linear", 0.25, rescale=False), [delta]) == np.where(kept, delta, 0)).all()
    assert (merge(method("dare_linear", 0.25), [delta]) == got).all()
    for other in (method("dare_linear", 0.25, seed=43), method("dare_linear", 0.25)):
        again = merge(other, [delta], names=["t0" if other.seed == 43 else "another"]) != 0
        assert abs((again & kept).mean() - 0.0625) < 5 * math.sqrt(0.0625 / len(delta))  # independent


def test_random_numbers_are_philox_by_place(monkeypatch):
    # the known answer of the authors' own code (Random123) for a counter and a key of zero
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    numbers = masks.Numbers(42, "w", "ab")
    key, numbers.key = numbers.key, 0
    assert numbers.take(0, 512)[::128].tolist() == words
    # nobody may change these, or an edit cannot be repeated
    numbers.key = key
    assert numbers.take(6, 4).tolist() == [4073082438, 3162271264, 1312951736, 2219370062]
    spans = [(0, 1), (511, 2), (6, 4), (1 << 40, 700), ((1 << 41) + 77, 3000)]
    values = np.random.default_rng(0).normal(size=3000)
    kept = [masks.keep_by_chance(values, start, numbers, 0.3, True, -0.7) for start in (0, 512, 1 << 41)]
    drawn = [numbers.take(*span) for span in spans]
    assert (drawn[0] == numbers.take(0, 9)[:1]).all()
    monkeypatch.setattr(masks, "load_or_none", lambda: None)  # numpy's are the same
    assert all((numbers.take(*span) == one).all() for span, one in zip(spans, drawn, strict=True))
    for start, one in zip((0, 512, 1 << 41), kept, strict=True):
        again = masks.keep_by_chance(values, start, numbers, 0.3, True, -0.7)
        assert one.tobytes() == again.tobytes()
        assert ((one == 0) | (one == values / 0.3 * -0.7)).all()
        assert 800 < np.count_nonzero(one) < 1000


def test_della_keeps_larger_elements_more_often():
    rows = np.tile(np.array([[0.1, -5.0, 1.0, 0.5]]), (100_000, 1)) * np.linspace(1, 2, 100_000)[:, None]
    got = merge(method("della_linear", 0.5, epsilon=0.3), [rows], shape=rows.shape).reshape(rows.shape)
    chances = np.array([0.2, 0.8, 0.6, 0.4])  # from the least to the largest: 0.2, 0.4, 0.6, 0.8
    assert np.abs((got != 0).mean(axis=0) - chances).max() < 5 * 0.5 / math.sqrt(len(rows))
    assert np.allclose(got[got != 0], (rows / chances)[got != 0], rtol=1e-15)
    assert merge(method("della", 0.5, epsilon=0.1), [[3.0]]).tolist() in ([0.0], [6.0])  # a row of one


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


def test_sce_gives_the_numbers_of_mergekit():
    deltas = [[0.5, -1.0, 2.0, 0.0, 0.25], [-0.25, -1.0, 1.0, 0.5, 0.25], [1.5, 3.0, -1.0, 0.0, 0.25]]
    whole = [1.1985815602836878, 3.0, 1.6910569105691056, 0.5, 0.25]
    assert np.allclose(merge(method("sce", 1.0), deltas), whole, rtol=1e-13)
    # four of five elements vary: of these three, and two, vary most
    assert np.allclose(merge(method("sce", 0.75), deltas), [1.2, 3, 1.717948717948718, 0, 0], rtol=1e-13)
    assert np.allclose(merge(method("sce", 0.5), deltas), [0, 3, 1.7142857142857142, 0, 0], rtol=1e-13)
    # deltas that are so small weigh the same
    small = [1e-4 * np.array(delta) for delta in deltas]
    assert np.allclose(merge(method("sce", 1.0), small), [1e-4, 3e-4, 1.5e-4, 5e-5, 2.5e-5], rtol=1e-13)
    assert np.allclose(merge(method("sce", 1.0), deltas, alpha=-0.5), -0.5 * np.array(whole), rtol=1e-13)
    # elements that vary alike: those that come first, in the second pass over them as in the first
    assert merge(method("sce", 0.5), [[1.0] * 4, [0.0] * 4]).tolist() == [1, 1, 0, 0]


def test_model_stock():
    # cos 60° = 1/2 of two: t = 2 * 1/2 / (1 + 1/2) = 2/3 of their mean
    one, two = [2.0, 0], [1.0, math.sqrt(3)]
    assert np.allclose(merge(method("model_stock"), [one, two]), np.array([1.5, math.sqrt(3) / 2]) * 2 / 3, rtol=1e-15)
    assert np.allclose(merge(method("model_stock"), [one, one, one]), one, rtol=1e-15)
    assert merge(method("model_stock"), [[1.0, 0], [0, 1.0]]).tolist() == [0, 0]
    assert merge(method("model_stock"), [one, [-2.0, 0]]).tolist() == [0, 0]  # opposite: no estimate
    assert sphere.stock_ratio([0.5, 0.5, 0.5], 3) == 3 * 0.5 / 2


def test_iso_c_sets_all_singular_values_to_their_mean():
    got = merge(method("iso_c"), [np.diag([3.0, 0]), np.diag([0, 1.0])])
    assert np.allclose(got.reshape(2, 2), np.diag([2.0, 2.0]), atol=1e-14)
    assert merge(method("iso_c"), [[1.0, 2.0], [3.0, 6.0]], [1, 0.5]).tolist() == [1.25, 2.5]  # a vector: the mean


def test_tsv_keeps_a_share_of_each_and_makes_them_orthogonal():
    one, two = np.diag([3.0, 1.0, 0, 0]), np.diag([0, 0, 5.0, 2.0])
    assert np.allclose(merge(method("tsv"), [one, two]).reshape(4, 4), one + two, atol=1e-14)
    # four values each, two kept of each; what is orthogonal stays
    one, two = np.diag([3.0, 1.0, 0.5, 0]), np.diag([0, 0, 5.0, 2.0])
    assert np.allclose(merge(method("tsv"), [one, two]).reshape(4, 4), np.diag([3.0, 1, 5, 2]), atol=1e-14)
    # the same direction twice: Procrustes gives the two vectors equal parts of it
    both = merge(method("tsv"), [np.diag([2.0, 0]), np.diag([2.0, 0])]).reshape(2, 2)
    assert np.isclose(both[0, 0], 2, atol=1e-14)


def test_wudi_is_where_the_disturbance_is_least():
    generator = np.random.default_rng(0)
    deltas = [generator.standard_normal((5, 6)) for _ in range(3)]

    def loss(merged):
        return sum(np.sum(((merged - one) @ one.T) ** 2) / np.sum(one**2) for one in deltas)

    got = merge(method("wudi"), deltas).reshape(5, 6)
    for _ in range(50):
        assert loss(got + 1e-3 * generator.standard_normal((5, 6))) > loss(got)
    # inputs that do not overlap: each delta is left alone
    one, two = np.zeros((2, 4)), np.zeros((2, 4))
    one[:, :2], two[:, 2:] = deltas[0][:2, :2], deltas[1][:2, :2]
    assert np.allclose(merge(method("wudi"), [one, two]).reshape(2, 4), one + two, atol=1e-13)


def factors(generator, rank=2, scale=0.5, rows=7, columns=9) -> LowRank:
    return LowRank(generator.standard_normal((rows, rank)), generator.standard_normal((rank, columns)), scale)


def test_core_space_loses_nothing():
    generator = np.random.default_rng(1)
    several = [factors(generator, rank) for rank in (2, 3)]
    left, cores, right = core.core_matrices(several)
    for one, small in zip(several, cores, strict=True):
        assert np.allclose(left @ small @ right, one.left @ one.right * one.scale, atol=1e-13)
    assert cores[0].shape == (5, 5)
    merged = core.core_space(several, [0.5, 2.0], 1.0, 1.0)
    expected = elect([0.5 * cores[0], 2.0 * cores[1]], [0.5, 2.0], 1.0, None)
    assert np.allclose(merged.left @ merged.right, left @ expected @ right, atol=1e-12)
    alone = core.core_space(several[:1], [3.0], 1.0, 1.0)
    assert np.allclose(alone.left @ alone.right, 1.5 * several[0].left @ several[0].right, atol=1e-12)


# against PEFT, whose conventions differ where the test says so


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_that_of_peft_where_weights_are_equal(density):
    generator = torch.Generator().manual_seed(3)
    deltas = [torch.randn(40, 30, generator=generator, dtype=torch.float64) for _ in range(3)]
    if density == 1.0:
        with pytest.warns(UserWarning, match="no pruning"):
            theirs = merge_utils.ties(deltas, torch.full((3,), 0.7, dtype=torch.float64), density)
    else:
        theirs = merge_utils.ties(deltas, torch.full((3,), 0.7, dtype=torch.float64), density)
    got = merge(method("ties", density), [delta.numpy() for delta in deltas], [0.7] * 3)
    assert np.allclose(got, theirs.numpy().ravel(), rtol=1e-14, atol=1e-15)


def test_ties_weights_before_the_election_where_peft_weights_after():
    deltas = [torch.tensor([1.0], dtype=torch.float64), torch.tensor([-2.0], dtype=torch.float64)]
    weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="no pruning"):
        assert merge_utils.ties(deltas, weights, 1.0).item() == -2
    assert merge(method("ties", 1.0), [delta.numpy() for delta in deltas], [3.0, 1.0]).item() == 3


def test_dare_is_that_of_peft_under_the_same_mask(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    deltas = [torch.randn(50, 20, generator=generator, dtype=torch.float64) for _ in range(2)]
    weights = torch.tensor([0.7, 0.7], dtype=torch.float64)
    ones = [merge(method("dare_linear", 0.3), [delta.numpy()], names=["t"]) != 0 for delta in deltas]
    for name, function in (("dare_linear", merge_utils.dare_linear), ("dare_ties", merge_utils.dare_ties)):
        ours = iter(torch.from_numpy(one.reshape(50, 20)) for one in ones)
        monkeypatch.setattr(torch, "bernoulli", lambda _, ours=ours: next(ours).double())
        theirs = function(deltas, weights, 0.3)
        got = merge(method(name, 0.3), [delta.numpy() for delta in deltas], [0.7, 0.7], names=["t", "t"])
        assert np.allclose(got, theirs.numpy().ravel(), rtol=1e-14, atol=1e-15)


# laws


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


@settings(max_examples=50)
@given(
    name=st.sampled_from(DENSE),
    order=st.permutations(range(3)),
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(12,), (4, 6), (2, 3, 4)]),
    alpha=st.sampled_from([1.0, -0.7]),
)
def test_the_order_of_the_operands_changes_no_bit(name, order, seed, shape, alpha):
    generator = np.random.default_rng(seed)
    count = 2 if name in BETWEEN_TWO else 3
    deltas = [np.round(generator.standard_normal(shape), 1) for _ in range(count)]
    weights = list(generator.uniform(0.1, 2, count))
    base = np.round(generator.standard_normal(shape), 1).ravel()
    order = [index for index in order if index < count]
    how = method(name, 0.5)
    first = merge(how, deltas, weights, alpha, shape, base, ["t"] * count)
    again = merge(how, [deltas[i] for i in order], [weights[i] for i in order], alpha, shape, base, ["t"] * count)
    assert first.tobytes() == again.tobytes()


def test_three_parts_are_added_as_linear_does():
    parts = [np.array([1e16]), np.array([1.0]), np.array([-1e16])]
    assert ordered_sum(parts) == (-1e16 + 1.0) + 1e16


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tie", {}, "unknown method"),
        ("ties", {}, "needs a density"),
        ("ties", {"density": 0.0}, "density is 0"),
        ("ties", {"density": 1.5}, "density is 1.5"),
        ("ties", {"density": math.nan}, "density is nan"),
        ("ties", {"density": 0.5, "seed": 1}, "has no seed"),
        ("linear", {"density": 0.5}, "has no density"),
        ("slerp", {"rescale": False}, "has no rescale"),
        ("breadcrumbs", {"density": 0.5, "gamma": 1.0}, "gamma is 1"),
        ("della", {"density": 0.1}, "epsilon is 0.15"),
        ("della", {"density": 0.5, "epsilon": -0.1}, "epsilon is -0.1"),
        ("dare_ties", {"density": 0.5, "seed": -1}, "seed is -1"),
    ],
)
def test_options_that_do_not_fit(name, options, words):
    with pytest.raises(UsageError, match=words):
        parse_method(name, **options)


def test_spectral_functions_do_not_change_their_inputs():
    deltas = [np.random.default_rng(seed).standard_normal((4, 5)) for seed in range(2)]
    before = [delta.copy() for delta in deltas]
    for function in (spectral.iso_c, lambda deltas: spectral.tsv(deltas, 2), lambda deltas: spectral.wudi(deltas, 2)):
        function(deltas)
        assert all((one == other).all() for one, other in zip(deltas, before, strict=True))
