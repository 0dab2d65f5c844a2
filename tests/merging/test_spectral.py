"""Iso-C, TSV, WUDI and low rank: golden values, and the minimum that each of them promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetuning import DEVICES
from merging import merge, method

from taskarith.merging import spectral


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


def test_spectral_functions_do_not_change_their_inputs():
    deltas = [np.random.default_rng(seed).standard_normal((4, 5)) for seed in range(2)]
    before = [delta.copy() for delta in deltas]
    for function in (spectral.iso_c, lambda deltas: spectral.tsv(deltas, 2), lambda deltas: spectral.wudi(deltas, 2)):
        function(deltas)
        assert all((one == other).all() for one, other in zip(deltas, before, strict=True))


def test_low_rank_is_the_best_approximation_of_each_delta():
    generator = np.random.default_rng(0)
    deltas = [generator.normal(size=(7, 5)) for _ in range(2)]
    merged = merge(method("low_rank", rank=2), deltas, [1.0, -0.5], shape=(7, 5)).reshape(7, 5)
    expected = np.zeros((7, 5))
    for weight, delta in zip([1.0, -0.5], deltas, strict=True):
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        expected += weight * (left[:, :2] * values[:2]) @ right[:2]
    assert np.allclose(merged, expected, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (24, 24)])
def test_the_gram_matrix_gives_the_singular_values_and_vectors(shape, device):
    matrix = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).to(device)
    left, values, right = spectral.from_gram(matrix)
    assert torch.allclose(values, torch.linalg.svdvals(matrix), rtol=1e-12)
    assert torch.allclose((left * values) @ right, matrix, atol=1e-12)
    for side in (left.T, right):
        assert torch.allclose(side @ side.T, torch.eye(min(shape), dtype=torch.float64, device=device), atol=1e-8)


def test_a_matrix_whose_small_singular_values_would_be_rounding_is_left_to_others():
    generator = np.random.default_rng(1)
    (left, _), (right, _) = (np.linalg.qr(generator.normal(size=(9, 9))) for _ in range(2))
    for values in ([1.0] * 8 + [1e-9], [1.0] * 8 + [0.0], [0.0] * 9, [1e200] * 9):
        assert spectral.from_gram(torch.from_numpy(left * values @ right)) is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["iso_c", "tsv", "wudi", "low_rank"])
def test_a_gpu_merges_the_same_but_for_the_last_bits(monkeypatch, name, device):
    """The way of a GPU, and the GPU itself where there is one."""
    generator = np.random.default_rng(2)
    deltas = [generator.normal(size=(30, 20)) for _ in range(2)] + [np.outer(np.arange(30.0), np.arange(20.0))]
    expected = merge(method(name), deltas, [1.0, -0.5, 0.2], shape=(30, 20))
    plain = spectral._svd
    monkeypatch.setattr(spectral, "_svd", lambda matrix: spectral.from_gram(matrix) or plain(matrix))
    found = merge(method(name), deltas, [1.0, -0.5, 0.2], shape=(30, 20), device=device)
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["iso_c", "tsv", "wudi"])
def test_directions_of_singular_values_that_are_zero_do_not_count(monkeypatch, name):
    """LoRA adapters: whatever an implementation returns for their null spaces, the result is the same."""
    generator = np.random.default_rng(3)
    deltas = [generator.normal(size=(30, 2)) @ generator.normal(size=(2, 20)) for _ in range(3)]
    expected, plain = merge(method(name), deltas, shape=(30, 20)), torch.linalg.svd
    assert not merge(method(name), [np.zeros((4, 3))] * 2, shape=(4, 3)).any()

    def turned(matrix, full_matrices):
        left, values, right = plain(matrix, full_matrices=full_matrices)
        count = int((values > 1e-10 * values.max()).sum())
        turn = torch.linalg.qr(torch.randn(len(values) - count, len(values) - count, dtype=torch.float64)).Q
        left[:, count:], right[count:] = left[:, count:] @ turn, turn @ right[count:]
        return left, values, right

    monkeypatch.setattr(torch.linalg, "svd", turned)
    assert np.abs(merge(method(name), deltas, shape=(30, 20)) - expected).max() < 1e-10 * np.abs(expected).max()
