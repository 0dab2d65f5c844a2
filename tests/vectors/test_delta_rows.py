"""Rows of the difference of two stored tensors, of any dtypes and shapes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import random_models
import torch

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.vectors.delta_rows import DeltaRows


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4), (6,), (3, 0), (1, 1)])
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float64", "float16"), ("float32", "float32")])
def test_rows_are_the_difference_in_float64(tmp_path, shape, dtypes):
    sides = [random_models.draw({"w": (shape, getattr(torch, one))}, seed)["w"] for seed, one in enumerate(dtypes)]
    files = [random_models.write(tmp_path / str(number), {"w": one}, 1) for number, one in enumerate(sides)]
    count, columns = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (shape[0], 1)
    expected = (sides[1].double() - sides[0].double()).reshape(count, columns)
    with TensorReader() as reader:
        delta = DeltaRows(*(open_checkpoint(Path(file)).tensors["w"] for file in files), reader)
        assert torch.equal(delta.rows(0, count), expected)
        assert torch.equal(delta.rows(count // 2, count), expected[count // 2 :])
        assert delta.squares() == pytest.approx(float(expected.square().sum()), rel=1e-14)


def test_squares_of_what_is_not_finite_are_not(tmp_path):
    files = [
        random_models.write(tmp_path / name, {"w": torch.tensor([1.0, value])}, 1)
        for name, value in (("a", 1.0), ("b", math.inf))
    ]
    with TensorReader() as reader:
        delta = DeltaRows(*(open_checkpoint(Path(file)).tensors["w"] for file in files), reader)
        assert not math.isfinite(delta.squares())
