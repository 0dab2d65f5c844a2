"""The origin of each element of a saved tensor, traced by running transformers' conversion on positions.

Every parameter is replaced by a tensor of its shape that holds, at each element, its position along one axis. The
saved tensors then show which element of which parameter each of their elements is. The tensors are views that repeat
one line, so they take no memory; copies of such views are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from taskarith.architecture.layout import Piece, Span

__all__ = ["trace"]

_SAMPLES = 512
"""Number of elements of a tensor to check against its pieces."""


def trace(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Piece, ...]]:
    """Return the pieces of parameters that each tensor written by saving the model consists of.

    :param model: On the meta device, with the conversions of the files it was matched with.
    :param shapes: Names and shapes of the parameters.
    """
    numbers = {name: number for number, name in enumerate(shapes)}
    names, pieces_of = list(shapes), {}
    for group in _groups(shapes):
        saved = [_revert(model, {name: fill(numbers[name], shapes[name]) for name in group}) for fill in _fills()]
        for tensor, owners in saved[0].items():
            pieces_of[tensor] = _pieces(owners, [axis[tensor] for axis in saved[1:]], names, shapes)
    return pieces_of


def _groups(names: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the names layer by layer: fused or split tensors belong to one layer."""
    groups: dict[str, list[str]] = {}
    for name in names:
        match = re.search(r"^.*?\.\d+\.", name)
        groups.setdefault(match[0] if match else "", []).append(name)
    yield from groups.values()


def _fills() -> list[Callable[[int, tuple[int, ...]], torch.Tensor]]:
    """Return functions that fill a parameter: with its number, then with the position along each axis."""

    def number(own: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(own, dtype=torch.int32).expand(shape)

    def along(axis: int) -> Callable[[int, tuple[int, ...]], torch.Tensor]:
        def fill(_: int, shape: tuple[int, ...]) -> torch.Tensor:
            if axis >= len(shape):
                return number(0, shape)
            line = torch.arange(shape[axis], dtype=torch.int32)
            return line.reshape([-1 if dimension == axis else 1 for dimension in range(len(shape))]).expand(shape)

        return fill

    return [number, along(0), along(1), along(2)]


def _revert(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with _NoCopies(), torch.no_grad():
        return revert_weight_conversion(model, state)


class _NoCopies(TorchFunctionMode):
    """Skips copies of views, and joins views along the only axis in which they differ."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        more = kwargs or {}
        if func is torch.Tensor.contiguous:
            return args[0]
        if func is torch.stack:
            dim = more.get("dim", args[1] if len(args) > 1 else 0)
            return _join([tensor.unsqueeze(dim) for tensor in args[0]], dim)
        if func is torch.cat:
            return _join(list(args[0]), more.get("dim", args[1] if len(args) > 1 else 0))
        return func(*args, **more)


def _join(tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
    first = tensors[0]
    axis = dim % first.dim()
    flat = [
        dimension
        for dimension in range(first.dim())
        if dimension != axis
        and all(t.stride(dimension) == 0 and t.shape[dimension] == first.shape[dimension] for t in tensors)
    ]
    lines = tensors
    for dimension in flat:
        lines = [line.narrow(dimension, 0, 1) for line in lines]
    joined = torch.cat(lines, dim=axis)
    return joined.expand(
        [first.shape[dimension] if dimension in flat else size for dimension, size in enumerate(joined.shape)]
    )


def _pieces(
    owners: torch.Tensor, axes: list[torch.Tensor], names: list[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Piece, ...]:
    """Describe a saved tensor as pieces; empty if that is impossible."""
    if owners.numel() == 0 or owners.dim() > 3:
        only = names[int(owners.flatten()[0])] if owners.numel() else ""
        is_same = bool(only) and tuple(owners.shape) == shapes[only] and _is_plain(owners, axes)
        return (Piece(only, 0, owners.shape[0]),) if is_same else ()
    row_axis = max(owners.dim() - 2, 0)
    lines = owners.movedim(row_axis, 0).reshape(owners.shape[row_axis], -1) if owners.dim() else owners.reshape(1, 1)
    line = lines[:, 0].numpy()
    starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
    pieces = []
    for start, stop in pairwise(starts):
        name = names[int(line[start])]
        part = [t.narrow(row_axis, start, stop - start) if t.dim() else t for t in (owners, *axes)]
        piece = _piece(name, shapes[name], start, stop, part[0], part[1:])
        if piece is None:
            return ()
        pieces.append(piece)
    return tuple(pieces)


def _is_plain(owners: torch.Tensor, axes: list[torch.Tensor]) -> bool:
    """Tell whether a tensor of many dimensions is a single unchanged parameter, by three of its axes."""
    if bool((owners != owners.flatten()[0]).any()):
        return False
    return all(
        bool((axis.movedim(dimension, -1) == torch.arange(axis.shape[dimension], dtype=torch.int32)).all())
        for dimension, axis in enumerate(axes)
    )


def _piece(
    name: str, shape: tuple[int, ...], start: int, stop: int, owners: torch.Tensor, axes: list[torch.Tensor]
) -> Piece | None:
    count = len(shape)
    if owners.dim() < 2:
        rows = axes[0].reshape(-1).numpy() if count == 1 else np.zeros(1, np.int32)
        span = _span(rows, shape[0] if count else 1)
        return Piece(name, start, stop, span) if count < 2 and bool((owners == owners.flatten()[0]).all()) else None
    if count not in (2, 3) or (owners.dim() == 3 and owners.shape[:-2] != shape[:-2]):
        return None  # a part of the matrices, or of the channels of a convolution
    first = (0,) * (owners.dim() - 2)
    tall, wide = axes[count - 2][first], axes[count - 1][first]
    is_transposed = _varies(tall[0]) or (not _varies(tall[:, 0]) and _varies(wide[:, 0]))
    rows, columns = (tall[0], wide[:, 0]) if is_transposed else (tall[:, 0], wide[0])
    rows, columns = rows.numpy(), columns.numpy()
    expert = None
    if count == 3 and owners.dim() == 2:
        expert = int(axes[0].flatten()[0])
    piece = Piece(name, start, stop, _span(rows, shape[-2]), _span(columns, shape[-1]), is_transposed, expert)
    return piece if _agrees(owners, axes, rows, columns, piece, count) else None


def _varies(line: torch.Tensor) -> bool:
    return bool((line != line[0]).any())


def _agrees(
    owners: torch.Tensor, axes: list[torch.Tensor], rows: np.ndarray, columns: np.ndarray, piece: Piece, count: int
) -> bool:
    """Check a sample of elements against the piece."""
    draw = np.random.default_rng(0)
    where = [draw.integers(0, size, _SAMPLES) for size in owners.shape]
    i, j = (where[-1], where[-2]) if piece.is_transposed else (where[-2], where[-1])
    samples = tuple(map(torch.from_numpy, where))
    own = owners[samples].numpy()
    expected = [rows[i], columns[j]]
    if count == 3:
        expected.insert(0, np.full(_SAMPLES, piece.expert) if piece.expert is not None else where[0])
    return bool((own == own[0]).all()) and all(
        np.array_equal(axes[axis][samples].numpy(), values) for axis, values in enumerate(expected)
    )


def _span(line: np.ndarray, size: int) -> Span | None:
    """Describe positions: all in order (None), evenly spaced, or one by one."""
    steps = np.unique(np.diff(line))
    if len(steps) <= 1:
        step = int(steps[0]) if len(steps) else 1
        if len(line) == size and step == 1 and line[0] == 0:
            return None
        if step > 0:
            return (int(line[0]), int(line[-1]) + 1, step)
    return (tuple(map(int, line)),)
