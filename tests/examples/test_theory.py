"""The theory's model, its claims on a reduced scale, and the arithmetic they are judged with."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.theory.claims import claims, markdown
from examples.theory.compression import low_rank, prune, rank_error, split_rows
from examples.theory.data import Setting, new_space, sample, second_task, target_task
from examples.theory.findings import find
from examples.theory.model import Transformer, attend, edit, forward, initial, subtract, train
from examples.theory.outside import compare, least_coefficients, predicted
from examples.theory.plan import QUICK
from examples.theory.plots import draw
from examples.theory.results import thresholds_table, write_json
from examples.theory.thresholds import first_crossing, run_nearest_zero

SMALL = Setting(dimension=12, irrelevant=8, width=16, tokens=6, relevant=3, confusing=1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def double(model):
    return Transformer(model.attention.double(), model.values.double(), model.signs.double())


def test_the_data_is_what_the_theory_assumes(generator):
    space = new_space(SMALL, 2, generator)
    patterns = torch.cat([space.axes, space.irrelevant], dim=1)
    torch.testing.assert_close(patterns @ patterns.mT, torch.eye(11).expand(2, -1, -1), atol=1e-5, rtol=0)
    for alpha in (-0.9, 0.0, 0.6):
        pattern = second_task(space, alpha)
        torch.testing.assert_close((pattern * space.axes[:, 0]).sum(1), torch.full((2,), alpha), atol=1e-6, rtol=0)
        torch.testing.assert_close(pattern.norm(dim=1), torch.ones(2))
    target = target_task(space, (0.8, -0.5))
    torch.testing.assert_close(
        torch.einsum("rd,rkd->rk", target, space.axes), torch.tensor([[0.8, -0.5, 0.11**0.5]]).expand(2, -1)
    )
    batch = sample(pattern, space.irrelevant, 400, SMALL, generator)
    along = torch.einsum("rbpd,rd->rbp", batch.tokens, pattern)
    assert ((along > 0.5).sum(2) - (along < -0.5).sum(2) == 2 * batch.labels).all()  # majority of 3 against 1
    assert ((along.abs() > 0.5).sum(2) == 4).all()
    assert 0.4 < (batch.labels > 0).float().mean() < 0.6
    torch.testing.assert_close(batch.tokens.norm(dim=3), torch.ones(2, 400, 6))


def test_the_forward_is_the_formula(generator):
    model, tokens = initial(replace(SMALL, init_scale=1.0), 2, generator), torch.randn(2, 3, 6, 12, generator=generator)
    attention = attend(model, tokens)
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 3, 6))
    for run, row in itertools.product(range(2), range(3)):
        x = tokens[run, row]
        output = 0.0
        for position in range(6):
            scores = torch.stack([x[s] @ model.attention[run] @ x[position] for s in range(6)])
            mixed = (scores.softmax(0)[:, None] * x).sum(0)
            output += model.signs[run, position] @ (model.values[run] @ mixed).relu()
        torch.testing.assert_close(forward(model, tokens)[run, row], output / 6)


def test_the_gradient_is_the_slope_of_the_loss(generator):
    model = double(initial(replace(SMALL, init_scale=0.5), 1, generator))
    tokens = torch.randn(1, 2, 6, 12, generator=generator, dtype=torch.float64)

    def outputs(attention, values):
        return forward(Transformer(attention, values, model.signs), tokens)

    inputs = (model.attention.requires_grad_(), model.values.requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs, eps=1e-6, atol=1e-6)


def test_one_step_of_training_is_plain_sgd_and_runs_do_not_mix(generator):
    setting = replace(SMALL, steps=1, learning_rate=0.3)
    space, base = new_space(setting, 2, generator), initial(setting, 2, generator)
    pattern = space.axes[:, 0]
    tuned, history = train(base, pattern, space.irrelevant, setting, torch.Generator().manual_seed(5))
    batch = sample(pattern, space.irrelevant, setting.batch, setting, torch.Generator().manual_seed(5))
    for run in range(2):
        alone = base[run : run + 1]
        weights = (alone.attention.clone().requires_grad_(), alone.values.clone().requires_grad_())
        margins = batch.labels[run] * forward(Transformer(*weights, alone.signs), batch.tokens[run : run + 1])
        loss = (1 - margins).clamp_min(0).mean()
        gradients = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(tuned.attention[run], alone.attention[0] - 0.3 * gradients[0][0])
        torch.testing.assert_close(tuned.values[run], alone.values[0] - 0.3 * gradients[1][0])
        torch.testing.assert_close(history[0].loss[run], loss.detach())
    torch.testing.assert_close(history[0].mass, torch.full((2,), 0.5), atol=0.01, rtol=0)  # 3 of 6 tokens
    torch.testing.assert_close(edit(base, [(1.0, subtract(tuned, base))]).values, tuned.values)


def test_thresholds_are_read_off_curves():
    lambdas = [-1.0, 0.0, 1.0, 2.0]
    assert first_crossing(lambdas, np.array([2.0, 1.0, 0.0, 0.0]), 0.25) == 0.75
    assert first_crossing(lambdas, np.array([0.0, 1.0, 1.0, 1.0]), 0.25) == -1.0
    assert np.isnan(first_crossing(lambdas, np.ones(4), 0.25))
    assert run_nearest_zero(lambdas, np.array([True, False, True, True])) == (-1.0, -1.0)
    assert run_nearest_zero(lambdas, np.array([False, False, True, True])) == (1.0, 2.0)
    assert run_nearest_zero(lambdas, np.array([True, True, False, True])) == (-1.0, 0.0)
    assert np.isnan(run_nearest_zero(lambdas, np.zeros(4, bool))).all()


@pytest.mark.parametrize(
    ("gamma", "largest"),
    [((0.8, -0.5), 1 / 0.8 / 0.8666667), ((-0.2, -0.9), 13.571429), ((0.6, 0.6), 1 / 1.2), ((0.5, 0.5, 0.5), 4 / 3)],
)
def test_the_linear_programme_of_theorem_3(gamma, largest):
    least = least_coefficients(gamma, 1.0)
    row = np.array(gamma)
    assert row @ least >= 1 - 1e-9
    assert row**2 @ least >= 1 - 1e-9
    assert max(map(abs, least)) == pytest.approx(largest if gamma != (0.6, 0.6) else 1 / 0.72)
    assert max(map(abs, least_coefficients(gamma, 1.0, 0.01))) > max(map(abs, least))


def test_equal_negative_gammas_have_no_solution():
    assert least_coefficients((-0.6, -0.6), 0.2) is None
    assert least_coefficients((-0.6, 0.0), 0.2) is None
    assert least_coefficients((-0.6, -0.5), 0.2) is not None


def test_regions_are_compared_point_by_point():
    promised = predicted((1.0, 0.0), [0.0, 1.0, 2.0], 1.0)
    assert promised.tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert predicted((1.0, 0.0), [0.0, 1.0, 2.0], 1.0, beta=0.5).tolist() == [[False] * 3] * 3
    found = np.array([[[False] * 3, [True, True, False], [True] * 3]])
    same = compare(promised, found)
    assert (same.precision, same.recall, same.agreement) == (5 / 6, 1.0, 8 / 9)


def test_vectors_are_truncated_and_pruned(generator):
    signs = torch.ones(1, 6, 16)
    vector = Transformer(torch.randn(1, 12, 12, generator=generator), torch.zeros(1, 16, 12), signs)
    vector.values[0, :, 0] = torch.arange(1, 17).float() / 100
    vector.values[0, 5:, 0] += 1
    rows = split_rows(vector)
    assert rows.small == [5 / 16]
    assert rows.gap[0] == pytest.approx(1.06 / 0.05)
    assert rows.mask[0].tolist() == [True] * 5 + [False] * 11
    assert prune(vector, rows.mask).values[0].count_nonzero() == 11
    values = torch.linalg.svdvals(vector.attention[0])
    left_out = low_rank(vector).attention - vector.attention
    assert float(left_out.norm()) == pytest.approx(float(values[1:].norm()), rel=1e-4)
    assert float(rank_error(vector.attention)) == pytest.approx(float(values[1:].norm() / values.norm()), rel=1e-4)


small_scale = pytest.mark.xdist_group("theory")  # they share the trained models


@pytest.fixture(scope="module")
def found():
    return find(QUICK, 2, replace(Setting(), width=256, steps=120))


@small_scale
def test_thresholds_have_the_theorems_order_and_signs(found):
    regimes = {regime.alpha: regime for regime in found.regimes}
    for alpha in (0.0, 0.5, 0.9):
        np.testing.assert_allclose(regimes[alpha].addition, 1 - alpha, atol=0.2)
        assert regimes[alpha].above == [1.0, 1.0]
    assert np.isnan(regimes[-0.5].addition).all()
    assert min(regimes[-0.5].best_loss) > 0.3
    for alpha in (-0.5, 0.0):
        low, high = np.array(regimes[alpha].negation).T
        assert (low < -0.4).all()
        assert (high >= 0).all()
    for alpha in (0.5, 0.9):
        assert np.isnan(regimes[alpha].negation).all()


@small_scale
def test_the_rest_of_the_claims_holds_on_a_small_scale(found):
    assert np.mean(found.history.mass[0]) == pytest.approx(0.4, abs=0.01)
    assert np.min(found.history.mass[-1]) > 0.85
    assert np.max(found.history.loss[-1]) < 0.02
    region = found.regions[0]
    letter = compare(predicted(region.gamma, region.axis, 1.0), region.learned)
    assert letter.precision == 1
    assert letter.predicted > 0.05
    assert not found.regions[1].learned.any()
    assert found.same_bits
    assert [row.name for row in claims(found) if row.holds == "no"] == []


@small_scale
def test_the_table_the_pictures_and_the_numbers_are_written(found, tmp_path):
    rows = claims(found)
    assert markdown(rows).count("\n") == len(rows) + 1
    assert "| 0.5 | 0.50 |" in thresholds_table(found)
    write_json(found, rows, tmp_path / "results.json")
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert numbers["regimes"][0]["addition"] == [None, None]
    assert {path.name for path in draw(found, tmp_path)} == {
        f"{n}.png" for n in ("regimes", "thresholds", "outside", "vectors")
    }
    assert all(Path(tmp_path / name).stat().st_size > 5000 for name in ("regimes.png", "vectors.png"))
