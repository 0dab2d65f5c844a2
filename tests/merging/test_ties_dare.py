"""TIES, DARE, DELLA, breadcrumbs and rows: golden values worked out by hand, random masks, and PEFT's results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from merging import merge, method
from peft.utils import merge_utils


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


def test_della_keeps_larger_elements_more_often():
    rows = np.tile(np.array([[0.1, -5.0, 1.0, 0.5]]), (100_000, 1)) * np.linspace(1, 2, 100_000)[:, None]
    got = merge(method("della_linear", 0.5, epsilon=0.3), [rows], shape=rows.shape).reshape(rows.shape)
    chances = np.array([0.2, 0.8, 0.6, 0.4])  # from the least to the largest: 0.2, 0.4, 0.6, 0.8
    assert np.abs((got != 0).mean(axis=0) - chances).max() < 5 * 0.5 / math.sqrt(len(rows))
    assert np.allclose(got[got != 0], (rows / chances)[got != 0], rtol=1e-15)
    assert merge(method("della", 0.5, epsilon=0.1), [[3.0]]).tolist() in ([0.0], [6.0])  # a row of one


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


def test_rows_keeps_those_with_the_largest_norms():
    delta = np.array([[1.0, 1.0], [3.0, 0.0], [0.0, 3.0], [-2.0, 1.0]])
    kept = merge(method("rows", 0.5), [delta], shape=delta.shape).reshape(4, 2)
    assert kept.tolist() == [[0, 0], [3, 0], [0, 3], [0, 0]]
    one = merge(method("rows", 0.25), [delta], shape=delta.shape).reshape(4, 2)
    assert one.tolist() == [[0, 0], [3, 0], [0, 0], [0, 0]]  # of equal ones the first
    assert merge(method("rows", 0.25), [delta.ravel()]).tolist() == delta.ravel().tolist()  # a vector has no rows
