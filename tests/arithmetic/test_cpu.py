"""The calculator on the CPU: its memory grows with what a recipe needs, and no address leads astray."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from calculating import CALCULATORS, begin, calculators, linear

from taskarith.arithmetic.calculator import LowRank, Term


@calculators
def test_a_recipe_with_more_inputs_than_the_last_one(calculator):
    base = torch.arange(4.0)
    for count in (1, 6, 2):
        terms = [Term(1.0, index) for index in range(1, count + 1)]
        found = linear(calculator, [base, *[torch.full((4,), 2.0)] * count], terms, torch.float32)[0]
        assert found.tolist() == [2.0 * count + value for value in range(4)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spoil", [np.asfortranarray, lambda one: one.astype(np.float32), lambda one: one[:, ::2]])
def test_factors_that_the_kernels_would_read_wrongly_are_refused(side, spoil):
    sides = {"left": np.ones((4, 6)), "right": np.ones((6, 8))}
    sides[side] = spoil(sides[side])
    with pytest.raises(AssertionError, match="one row after the other"):
        begin(CALCULATORS[0], [torch.zeros(32)], [Term(1.0, LowRank(scale=1.0, **sides))], torch.float32)
