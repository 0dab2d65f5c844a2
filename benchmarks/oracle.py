"""The right results in float64, rounded once, without any of taskarith's kernels; and who differs from them where."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.edits import Edit
from taskarith.checkpoints.header import TensorEntry, read_header

__all__ = ["bfloat16", "count_differences", "expected"]

_CHUNK = 1 << 20
_STORED = {"BF16": np.uint16, "F32": np.float32}


def count_differences(edit: Edit, outputs: Mapping[str, Path]) -> dict[str, int]:
    """Count by contender the elements whose bits are not those of the right result; missing ones are counted too.

    :param edit: What was calculated.
    :param outputs: By contender, the folder of its result.
    """
    inputs = [_tensors(folder) for folder in (edit.base, *(() if edit.kind == "lora" else edit.operands))]
    factors = _tensors(edit.operands[0]) if edit.kind == "lora" else {}
    results = {name: _tensors(folder) for name, folder in outputs.items()}
    ranges = [
        (name, start, min(_CHUNK, entry.elements - start))
        for name, entry in inputs[0].items()
        for start in range(0, entry.elements, _CHUNK)
    ]

    def compare(task: tuple[str, int, int]) -> Counter[str]:
        name, start, count = task
        values = [_wide(tensors[name], start, count) for tensors in inputs]
        if edit.kind == "lora":
            values.append(_product(factors, name, start, count))
        right = expected(edit, values)
        found = {contender: _read(tensors.get(name), start, count) for contender, tensors in results.items()}
        return Counter({contender: _differing(right, values) for contender, values in found.items()})

    total: Counter[str] = Counter(dict.fromkeys(outputs, 0))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(compare, ranges):
            total.update(part)
    return dict(total)


def expected(edit: Edit, values: list[np.ndarray]) -> np.ndarray:
    """Return the right result: float32, or the bits of bfloat16.

    :param edit: What is calculated.
    :param values: In float64, elements of the base and of every operand.
    """
    base, *others = values
    if edit.kind == "extract":
        return (others[0] - base).astype(np.float32)
    deltas = [other - base for other in others] if edit.kind in {"edit", "stored"} else others
    total = sum(weight * delta for weight, delta in zip(edit.coefficients, deltas, strict=True))
    return bfloat16(np.where(total == 0, base, base + total))


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float64 once, to nearest even, and return the bits of bfloat16 as uint16."""
    bits = values.view(np.uint64)  # bfloat16 keeps 7 of the 52 bits of the fraction: the other 45 are rounded off
    half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    rounded = ((bits + half) & ~np.uint64((1 << 45) - 1)).view(np.float64)
    small = np.abs(values) < 2.0**-126  # there bfloat16 is a grid of 2^-133
    rounded[small] = np.rint(values[small] * 2.0**133) * 2.0**-133
    return (rounded.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _tensors(folder: Path) -> dict[str, TensorEntry]:
    files = sorted(folder.glob("*.safetensors"))
    return {entry.name: entry for path in files for entry in read_header(path).tensors}


def _read(entry: TensorEntry | None, start: int, count: int) -> np.ndarray | None:
    """Return elements of a tensor as they are stored; None where it is missing or of another dtype."""
    if entry is None or entry.dtype not in _STORED:
        return None
    kind = np.dtype(_STORED[entry.dtype])
    return np.fromfile(entry.path, kind, count, offset=entry.offset + start * kind.itemsize)


def _wide(entry: TensorEntry, start: int, count: int) -> np.ndarray:
    values = _read(entry, start, count)
    if values is None:
        raise ValueError(f"{entry.name} in {entry.path} is {entry.dtype}")
    if entry.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def _product(factors: Mapping[str, TensorEntry], name: str, start: int, count: int) -> np.ndarray:
    """Return elements of B A in float64, summed over the rank from its first to its last; zeros without factors."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{module}.lora_A.weight" not in factors:
        return np.zeros(count)
    a, b = (factors[f"{module}.lora_{letter}.weight"] for letter in "AB")
    (rank, columns), (rows, _) = a.shape, b.shape
    first, last = start // columns, min(rows, -(-(start + count) // columns))
    left = _wide(b, first * rank, (last - first) * rank).reshape(-1, rank)
    right = _wide(a, 0, a.elements).reshape(rank, columns)
    total = np.zeros((last - first, columns))
    for index in range(rank):
        total += left[:, index : index + 1] * right[index]
    return total.ravel()[start - first * columns :][:count]


def _differing(right: np.ndarray, found: np.ndarray | None) -> int:
    if found is None or found.dtype != right.dtype or len(found) != len(right):
        return len(right)
    bits = np.dtype(f"u{right.itemsize}")
    return int(np.count_nonzero(right.view(bits) != found.view(bits)))
