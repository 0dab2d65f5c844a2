"""The same edit by taskarith's own verbs, on files: the tiny models are checkpoints like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import taskarith
from examples.theory.model import Transformer, edit
from examples.theory.world import World

__all__ = ["same_bits"]


def same_bits(world: World, alpha: float = 0.5, coefficients: Sequence[float] = (1.0, 0.75)) -> bool:
    """Extract both vectors of the first seed, apply them, and compare with base + sum of lambda times vector.

    :param alpha: Of the second task.
    :param coefficients: Binary fractions: with 0.7 some sums lie half-way between two float32 numbers, and the
        last bit is a matter of the order of addition.
    :return: Whether every element has the bits of the float64 sum, rounded once.
    """
    vectors = [world.first[:1], world.second[alpha][:1]]
    base = world.base[:1]
    tuned = [edit(base, [(1.0, vector)]) for vector in vectors]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        _save(base, root / "base")
        for i, model in enumerate(tuned):
            _save(model, root / f"tuned{i}")
            taskarith.extract(str(root / "base"), str(root / f"tuned{i}"), root / f"{i}.safetensors")
        operands = [f"{root}/{i}.safetensors:{coefficient}" for i, coefficient in enumerate(coefficients)]
        taskarith.apply(str(root / "base"), add=operands, output_dir=root / "edited")
        edited = load_file(root / "edited" / "model.safetensors")
    return all(
        torch.equal(edited[name], _sum(getattr(base, name), [getattr(t, name) for t in tuned], coefficients))
        for name in ("attention", "values")
    )


def _save(model: Transformer, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    weights = {"attention": model.attention.contiguous(), "values": model.values.contiguous()}
    save_file(weights, folder / "model.safetensors")


def _sum(base: Tensor, tuned: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    total = base.double()
    for weight, coefficient in zip(tuned, coefficients, strict=True):
        total = total + coefficient * (weight - base).double()
    return total.float()
