"""Models of random tensors: any names, shapes, dtypes and number of files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def write(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> str:
    """Save tensors as a model folder of one or several files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return str(folder)
    weight_map = {}
    for index in range(min(shards, len(names))):
        file = f"part-{index}.safetensors"
        part = {name: tensors[name] for name in names[index::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(folder)


def draw(layout, seed, base=None):
    """Random tensors of a layout; with a base, that plus noise, the same integers."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (shape, dtype) in layout.items():
        if not dtype.is_floating_point:
            made[name] = torch.ones(shape, dtype=dtype) if base is None else base[name].clone()
        else:
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            values = noise if base is None else base[name].double() + 0.01 * noise
            made[name] = values.to(dtype)
    return made
