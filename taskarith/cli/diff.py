"""`taskarith diff`: two models, vectors or other safetensors files, tensor by tensor."""

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
    second: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
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
        found = diff(first, second, listener=console)
    for line in _lines(found):
        console.line(printable(line))
    moved = sorted((tensor for tensor in found.tensors if tensor.differing), key=_order)[:top]
    if moved:
        console.line("")
        console.table("what differs most", _COLUMNS, [_row(tensor) for tensor in moved])
    console.result(found.to_json())
    if not found.is_equal:
        raise typer.Exit(1)


def _lines(found: Differences) -> list[str]:
    lines = []
    for side, names in ((found.first, found.only_first), (found.second, found.only_second)):
        if names:
            lines.append(f"only in {side}: {len(names)} tensors: {name_some(names)}")
    shapes = [f"{t.name} {list(t.shapes[0])} / {list(t.shapes[1])}" for t in found.tensors if len({*t.shapes}) > 1]
    dtypes = [f"{t.name} {t.dtypes[0]} / {t.dtypes[1]}" for t in found.tensors if len({*t.dtypes}) > 1]
    for what, names in (("shape", shapes), ("dtype", dtypes)):
        if names:
            lines.append(f"another {what}: {len(names)} tensors: {name_some(names)}")
    if found.is_equal:
        return [f"equal to the bit: {len(found.tensors)} tensors, {found.elements:,} elements"]
    count = sum(not tensor.is_equal for tensor in found.tensors)
    text = f"{count} of {len(found.tensors)} tensors and {found.differing:,} of {found.elements:,} elements differ"
    if found.differing:
        text += f", at most by {found.largest:.4g}; |a-b|/|a| {_number(found.relative)}"
    if found.nonfinite:
        text += f"; {found.nonfinite:,} differences are not finite"
    return [*lines, text]


def _order(tensor: TensorDifference) -> tuple[bool, float]:
    """Put first where numbers are not finite, then what has no relative difference, then the largest."""
    relative = tensor.relative
    return not tensor.nonfinite, -math.inf if relative is None or math.isnan(relative) else -relative


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    count = tensor.differing or 0
    share = f"{count / max(tensor.elements, 1):.2%}"
    numbers = (f"{count:,}", share, _number(tensor.largest), _number(tensor.relative))
    return (printable(tensor.name), str(list(tensor.shapes[0])), "/".join(dict.fromkeys(tensor.dtypes)), *numbers)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
