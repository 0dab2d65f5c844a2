"""Rows grouped by length: an order drawn from seed and epoch, and less padding."""

from __future__ import annotations

import random

import torch

from taskarith.training.grouping import LengthOrder

LENGTHS = random.Random(0).choices(range(20, 251), k=130)


def padded(order: list[int]) -> int:
    batches = [[LENGTHS[row] for row in order[start : start + 8]] for start in range(0, len(order), 8)]
    return sum(len(batch) * max(batch) for batch in batches)


def test_the_order_is_of_the_seed_and_the_epoch_alone():
    order = LengthOrder(LENGTHS, 8, 42)
    first = list(order)
    order.begin(1)
    second = list(order)
    torch.manual_seed(1)
    again = LengthOrder(LENGTHS, 8, 42)
    again.begin(1)
    assert list(again) == second
    again.begin(0)
    assert list(again) == first
    assert sorted(first) == sorted(second) == list(range(130))
    assert len({tuple(first), tuple(second), tuple(LengthOrder(LENGTHS, 8, 43))}) == 3


def test_batches_have_little_padding():
    assert padded(list(LengthOrder(LENGTHS, 8, 42))) < 1.2 * sum(LENGTHS)
    assert padded(list(range(130))) > 1.4 * sum(LENGTHS)
