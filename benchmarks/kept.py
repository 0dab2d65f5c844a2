"""How close factors come to the best approximation of their rank, by the singular values of each delta."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.edits import Edit, weights

__all__ = ["least_kept"]


def least_kept(edit: Edit, outputs: Mapping[str, Path]) -> dict[str, float]:
    """Return by contender the least share of the best possible energy that it keeps of any matrix.

    :param edit: An extraction at a rank.
    :param outputs: Adapter folders by contender.
    """
    least = dict.fromkeys(outputs, 1.0)
    with safe_open(weights(edit.base), "pt") as base, safe_open(weights(edit.operands[0]), "pt") as tuned:
        for name in base.keys():  # noqa: SIM118 - a file, not a mapping
            if base.get_slice(name).get_shape()[1:]:
                delta = tuned.get_tensor(name).double() - base.get_tensor(name).double()
                squares = torch.linalg.eigvalsh(delta.T @ delta).flip(0)
                for contender, folder in outputs.items():
                    product = _product(folder, name.removesuffix(".weight"))
                    kept = delta.square().sum() - (delta - product[0] @ product[1]).square().sum()
                    best = squares[: len(product[1])].sum()
                    least[contender] = min(least[contender], float(kept / best))
    return least


def _product(folder: Path, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two factors of a module's weight in float64; every scale is one."""
    with safe_open(weights(folder), "pt") as file:
        names = {name.removeprefix("base_model.model."): name for name in file.keys()}  # noqa: SIM118
        if f"{module}.lora_A.weight" in names:
            return tuple(file.get_tensor(names[f"{module}.lora_{x}.weight"]).double() for x in "BA")  # ty: ignore
        return tuple(file.get_tensor(names[f"{module}.lora_embedding_{x}"]).double().T for x in "AB")  # ty: ignore
