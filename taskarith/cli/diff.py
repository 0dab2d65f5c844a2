"""`taskarith diff`: compare two models, vectors or other safetensors files, tensor by tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.options import OutputOptions, TopOption
from taskarith.cli.output import printable
from taskarith.errors import name_some

if TYPE_CHECKING:
    from taskarith.inspection.diff import Differences, TensorDifference

__all__ = ["command"]

_COLUMNS = ("name", "shape", "dtype", "differ", "share", "largest difference", "|a-b|/|a|")


def command(
    first: Annotated[str, typer.Argument(metavar="A", help="Model (folder, hub id, GGUF), vector or other file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    *,
    top: TopOption = 10,
    output: OutputOptions,
) -> None:
    """Compare two models, vectors or files tensor by tensor.

    The exit code is 0 if all bits agree, else 1.

    Example: taskarith diff microsoft/phi-1_5 edited
    """
    from taskarith.inspection.diff import diff

    with output.console() as console:
        result = diff(first, second, listener=console)
    for line in _lines(result):
        console.line(printable(line))
    moved = sorted((tensor for tensor in result.tensors if tensor.differing), key=_order)[:top]
    if moved:
        console.line("")
        console.table("largest differences", _COLUMNS, [_row(tensor) for tensor in moved])
    console.result(result.to_json())
    if not result.is_equal:
        raise typer.Exit(1)


def _lines(result: Differences) -> list[str]:
    lines = []
    for side, names in ((result.first, result.only_first), (result.second, result.only_second)):
        if names:
            lines.append(f"only in {side}: {len(names)} tensors: {name_some(names)}")
    shapes = [f"{t.name} {list(t.shapes[0])} / {list(t.shapes[1])}" for t in result.tensors if len({*t.shapes}) > 1]
    dtypes = [f"{t.name} {t.dtypes[0]} / {t.dtypes[1]}" for t in result.tensors if len({*t.dtypes}) > 1]
    for attribute, names in (("shape", shapes), ("dtype", dtypes)):
        if names:
            lines.append(f"different {attribute}: {len(names)} tensors: {name_some(names)}")
    if result.is_equal:
        return [f"equal to the bit: {len(result.tensors)} tensors, {result.elements:,} elements"]
    count = sum(not tensor.is_equal for tensor in result.tensors)
    text = f"{count} of {len(result.tensors)} tensors and {result.differing:,} of {result.elements:,} elements differ"
    if result.differing:
        text += f", at most by {result.largest:.4g}; |a-b|/|a| {_number(result.relative)}"
    if result.nonfinite:
        text += f"; {result.nonfinite:,} differences are not finite"
    return [*lines, text]


def _order(tensor: TensorDifference) -> tuple[bool, float]:
    """Sort tensors with non-finite differences first, then those without a relative difference, then the largest."""
    relative = tensor.relative
    return not tensor.nonfinite, -math.inf if relative is None or math.isnan(relative) else -relative


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    count = tensor.differing or 0
    share = f"{count / max(tensor.elements, 1):.2%}"
    numbers = (f"{count:,}", share, _number(tensor.largest), _number(tensor.relative))
    return (printable(tensor.name), str(list(tensor.shapes[0])), "/".join(dict.fromkeys(tensor.dtypes)), *numbers)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
