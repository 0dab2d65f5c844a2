"""`taskarith inspect`: what a vector, an adapter, a model or another safetensors file is."""

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
        found = inspect(path, listener=console)
    for key, text in _facts(found):
        console.line(printable(f"{key:<11} {text}"))
    title, columns, rows = _target_rows(found, top) if found.targets else _tensor_rows(found, top)
    if rows:
        console.line("")
        console.table(title, columns, rows)
    for remark in found.remarks:
        console.note(f"note: {printable(remark)}")
    console.result(found.to_json())


def _facts(found: Inspection) -> list[tuple[str, str]]:
    facts = [(_KINDS[found.kind], str(found.path))]
    if found.base:
        known = f", fingerprint {found.base.fingerprint}" if found.base.fingerprint else ""
        facts.append(("base", f"{found.base}{known}"))
    keys = found.record if found.kind == "file" else _FACTS
    facts += [(key, text[:_LONGEST]) for key in keys if (text := _words(found.record.get(key)))]
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in found.dtypes.items())
    size = f"{found.elements:,} elements, {found.nbytes / 1e6:,.1f} MB"
    facts.append(("tensors", f"{len(found.tensors)} ({dtypes}), {size}" if found.tensors else "none"))
    odd = f"{found.nonfinite:,} not finite" if found.nonfinite else "all finite"
    if found.targets:
        facts.append(("change", f"norm {_number(found.norm)}"))
        return [*facts, ("factors", f"{found.zeros:.2%} zeros, {odd}")]
    facts.append(("values", f"norm {_number(found.norm)}, {found.zeros:.2%} zeros, {odd}"))
    return facts


def _words(value: Any) -> str:
    """Write a value of a record in one line, without what lies deeper in it."""
    if isinstance(value, dict):
        flat = {
            key: item for key, item in value.items() if not isinstance(item, dict | list) and item not in (None, "")
        }
        return ", ".join(f"{key} {item}" for key, item in flat.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value))
    return "" if value is None else str(value)


def _tensor_rows(found: Inspection, top: int) -> _Table:
    """Show the largest tensors; first of all those with values that are not finite."""
    floats = [tensor for tensor in found.tensors if tensor.norm is not None]
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
    return f"largest {len(rows)} of {len(found.tensors)} tensors", columns, rows


def _target_rows(found: Inspection, top: int) -> _Table:
    """Show the weights that an adapter changes most; first of all those whose change is not finite."""
    shown = sorted(found.targets, key=lambda target: (target.norm is not None, -(target.norm or 0)))[:top]
    columns = ("target", "shape", "rank", "scale", "norm of scale B A")
    rows = [(printable(t.name), str(list(t.shape)), str(t.rank), f"{t.scale:.4g}", _number(t.norm)) for t in shown]
    return f"largest {len(rows)} of {len(found.targets)} changes", columns, rows


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
