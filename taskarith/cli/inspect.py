"""`taskarith inspect`: show what a vector, adapter, model or other safetensors file holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskarith.cli.options import OutputOptions, TopOption
from taskarith.cli.output import printable

if TYPE_CHECKING:
    from taskarith.inspection.inspect import Inspection

__all__ = ["command"]

_Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, headings, rows

_KINDS = {"vector": "task vector", "file": "safetensors file", "model": "model", "adapter": "LoRA adapter"}
_FACTS = ("kind", "options", "finetuned", "operands", "alpha", "dtype", "moved", "inexact", "energy", "error", "worst")
_FACTS += ("worst_error", "fingerprint", "command", "versions")
_LONGEST = 300  # characters of one fact; --json has all of it


def command(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Task vector, LoRA folder, model (folder, hub id, GGUF) or file.")
    ],
    *,
    top: TopOption = 10,
    output: OutputOptions,
) -> None:
    """Show what a vector, adapter, model or safetensors file holds.

    Example: taskarith inspect forget.safetensors --top 5
    """
    from taskarith.inspection.inspect import inspect

    with output.console() as console:
        inspection = inspect(path, listener=console)
    for key, text in _facts(inspection):
        console.line(printable(f"{key:<11} {text}"))
    title, columns, rows = _target_rows(inspection, top) if inspection.targets else _tensor_rows(inspection, top)
    if rows:
        console.line("")
        console.table(title, columns, rows)
    for remark in inspection.remarks:
        console.note(f"note: {printable(remark)}")
    console.result(inspection.to_json())


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    facts = [(_KINDS[inspection.kind], str(inspection.path))]
    if inspection.base:
        known = f", fingerprint {inspection.base.fingerprint}" if inspection.base.fingerprint else ""
        facts.append(("base", f"{inspection.base}{known}"))
    keys = inspection.record if inspection.kind == "file" else _FACTS
    facts += [(key, text[:_LONGEST]) for key in keys if (text := _one_line(inspection.record.get(key)))]
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in inspection.dtypes.items())
    size = f"{inspection.elements:,} elements, {inspection.nbytes / 1e6:,.1f} MB"
    facts.append(("tensors", f"{len(inspection.tensors)} ({dtypes}), {size}" if inspection.tensors else "none"))
    odd = f"{inspection.nonfinite:,} not finite" if inspection.nonfinite else "all finite"
    if inspection.targets:
        facts.append(("change", f"norm {_number(inspection.norm)}"))
        return [*facts, ("factors", f"{inspection.zeros:.2%} zeros, {odd}")]
    facts.append(("values", f"norm {_number(inspection.norm)}, {inspection.zeros:.2%} zeros, {odd}"))
    return facts


def _one_line(value: Any) -> str:
    """Write a value of a record on one line, without nested values."""
    if isinstance(value, dict):
        flat = {
            key: item for key, item in value.items() if not isinstance(item, dict | list) and item not in (None, "")
        }
        return ", ".join(f"{key} {item}" for key, item in flat.items())
    if isinstance(value, list):
        return "; ".join(map(_one_line, value))
    return "" if value is None else str(value)


def _tensor_rows(inspection: Inspection, top: int) -> _Table:
    """Return the largest tensors, those with non-finite values first."""
    floats = [tensor for tensor in inspection.tensors if tensor.norm is not None]
    shown = sorted(floats, key=lambda tensor: (not tensor.nonfinite, -(tensor.norm or 0)))[:top]
    columns = ("tensor", "shape", "dtype", "norm", "rms", "zeros", "largest", "not finite")
    rows = [
        (
            printable(tensor.name),
            str(list(tensor.shape)),
            tensor.dtype,
            _number(tensor.norm),
            _number(tensor.rms),
            f"{(tensor.zeros or 0) / max(tensor.elements, 1):.2%}",
            _number(tensor.largest),
            f"{tensor.nonfinite:,}",
        )
        for tensor in shown
    ]
    return f"largest {len(rows)} of {len(inspection.tensors)} tensors", columns, rows


def _target_rows(inspection: Inspection, top: int) -> _Table:
    """Return the weights that an adapter changes most, those with a non-finite change first."""
    shown = sorted(inspection.targets, key=lambda target: (target.norm is not None, -(target.norm or 0)))[:top]
    columns = ("target", "shape", "rank", "scale", "norm of scale B A")
    rows = [(printable(t.name), str(list(t.shape)), str(t.rank), f"{t.scale:.4g}", _number(t.norm)) for t in shown]
    return f"largest {len(rows)} of {len(inspection.targets)} changes", columns, rows


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
