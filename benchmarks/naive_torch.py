"""What people write themselves: load everything, calculate in float32, save everything.

Run as ``python naive_torch.py edit|vectors|extract OUTPUT BASE OTHER:COEFFICIENT...`` with safetensors files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main(kind: str, output: str, base_name: str, *others: str) -> None:
    """Calculate one edit, from fine-tunes or from stored vectors, or one vector, and save it."""
    base = load_file(base_name)
    operands = [(load_file(name), float(weight)) for name, weight in (other.rsplit(":", 1) for other in others)]
    result = {}
    for name, tensor in base.items():
        origin = tensor.to(torch.float32)
        if kind == "extract":
            result[name] = operands[0][0][name].to(torch.float32) - origin
            continue
        total = origin
        for tensors, weight in operands:
            value = tensors[name].to(torch.float32)
            total = total + weight * (value if kind == "vectors" else value - origin)
        result[name] = total.to(tensor.dtype)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    save_file(result, output, metadata={"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:])
