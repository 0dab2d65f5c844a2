"""Searches by gradient descent: their gradients, their steps, and what they find."""

from __future__ import annotations

import pytest
import torch
from sweeping import LOSSES, open_bench

from taskarith.sweeps.gradient_search import Slope, project
from taskarith.sweeps.rule import Rule
from taskarith.sweeps.sweep import sweep


def test_gradient_descent_keeps_more_than_plain_negation_at_equal_forgetting(lab):
    options = {"reference": lab["base"], **LOSSES}
    grid = [round(0.05 * n, 2) for n in range(41)]
    plain = sweep(lab["tuned"], lab["data"], negate=[lab["forget"]], alphas=grid, **options)
    both = {"negate": [lab["forget"]], "add": [lab["retain"]]}
    found = sweep(lab["tuned"], lab["data"], **both, gradient=20, **options)
    assert plain.chosen is not None
    best, other = found.rows[1].choosing, plain.rows[plain.chosen].choosing
    assert best.keep_loss < other.keep_loss
    assert found.aim.is_met(best, found.rows[0].choosing)
    assert found.trials[0].values == (0.0, 1.0)  # vectors in the order of apply: those that are added first


def test_gradients_are_those_of_losses_and_kl(lab):
    with open_bench(lab, Rule(budget=1.0), kl=0.7) as bench:
        slope = Slope(bench)
        assert slope.nbytes == 2 * sum(one.nbytes for one in bench.model.parameters())
        values = [0.1, 0.2, 0.3, 0.8, 0.9, 1.0]
        bench.attempt(values)
        found = slope.at({"forget": -2.0, "retain": 0.5}, 0.7)
        for place, got in enumerate(found.tolist()):
            sides = []
            for change in (-0.02, 0.02):
                near = bench.attempt([*values[:place], values[place] + change, *values[place + 1 :]]).point
                sides.append(-2 * near.forget_loss + 0.5 * near.keep_loss + 0.7 * near.kl)
            assert got == pytest.approx((sides[1] - sides[0]) / 0.04, rel=0.02, abs=2e-3)


@pytest.mark.parametrize(
    ("values", "goal", "limit", "lacking", "step"),
    [
        ([1, 1], [3, 4], [0, 0], 0.0, [-0.06, -0.08]),  # nothing to mind: straight down
        ([1, 1], [3, 4], [0, 2], 0.0, [-0.1, 0]),  # along the bound
        ([1, 1], [3, 4], [0, 2], 0.2, [-0.1, 0.1]),  # and onto it
        ([1, 1], [3, 4], [0, 2], -0.2, [-0.1, -0.1]),  # from above too
        ([1, 1], [3, 4], [0, 2], 9.0, [-0.1, 0.3]),  # but not too far at once
        ([0, 1], [3, 4], [0, 2], 0.2, [0, 0.1]),  # never outwards
        ([0, 2], [3, -4], [0, 0], 0.0, [0, 0]),
    ],
)
def test_a_step_goes_down_along_the_bound_and_onto_it(values, goal, limit, lacking, step):
    arrays = [torch.tensor(one, dtype=torch.float64) for one in (values, goal, limit)]
    assert project(*arrays, lacking, 0.1, (0.0, 2.0)).tolist() == pytest.approx(step)
