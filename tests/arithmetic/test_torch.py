"""The arithmetic by torch: the bits of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from calculating import CALCULATORS, linear, same

from taskarith.arithmetic.calculator import LowRank, Term
from taskarith.arithmetic.torch import linear_edit, same_bits


@pytest.mark.parametrize("rank", [0, 1, 5, 8, 16, 37])
@pytest.mark.parametrize(("rows", "columns", "blocks"), [(11, 13, 1), (6, 300, 3), (4, 1, 2), (1, 257, 1)])
def test_all_calculators_give_the_same_low_rank_bits(rank, rows, columns, blocks):
    generator = np.random.default_rng(2)
    left, right = generator.normal(size=(rows, rank)), generator.normal(size=(blocks * rank, columns))
    left[0] = -0.0
    factors = LowRank(left, right, 0.3, blocks)
    base = torch.randn(rows * columns, dtype=torch.float64)
    found = [linear(one, [base], [Term(-0.7, factors)], torch.float64)[0] for one in CALCULATORS]
    assert all(same(found[0], other) for other in found[1:])
    parts = zip(np.split(left, blocks), np.split(right, blocks), strict=True)
    product = np.concatenate([one @ other for one, other in parts]).flatten()
    np.testing.assert_allclose(found[0].numpy(), base.numpy() - 0.7 * 0.3 * product, rtol=1e-12, atol=1e-12)


def test_bits_are_compared_and_not_values():
    nan = torch.tensor([0x7FC0, 0x7FC1], dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    first = torch.cat([torch.tensor([0.0, 1.0, -0.0], dtype=torch.bfloat16), nan])
    second = torch.cat([torch.tensor([-0.0, 1.0, -0.0], dtype=torch.bfloat16), nan[[0, 0]]])
    assert same_bits(first, second).tolist() == [False, True, True, True, False]


def test_terms_are_added_before_the_base_and_in_the_order_of_their_values():
    base = torch.tensor([1e16, -0.0], dtype=torch.float64)
    terms = [torch.tensor(pair, dtype=torch.float64) for pair in ([1.0, 2.0], [-2e16, -4.0], [1.0, 2.0])]
    # -2e16 + 1 + 1 is -1.9999999999999998e16, of which the base is taken; base + terms one by one gives -1e16
    assert linear_edit(base, terms, torch.float64).tolist() == [1e16 + (-2e16 + 1 + 1), -0.0]
    assert str(linear_edit(base, terms, torch.float64)[1].item()) == "-0.0"
