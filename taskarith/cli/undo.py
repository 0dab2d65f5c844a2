"""`taskarith undo`: restore the input of an edit from its output."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.options import OutputOptions, OverwriteFlag
from taskarith.cli.output import printable

__all__ = ["command"]


def command(
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="Output of apply --keep-undo.")],
    *,
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.")],
    overwrite: OverwriteFlag = False,
    output: OutputOptions,
) -> None:
    """Restore the model before an edit, bit for bit.

    It uses the patch that apply --keep-undo wrote, and lists what cannot be restored.

    Example: taskarith undo edited -o original
    """
    from taskarith.edit.undo import undo

    with output.console() as console:
        result = undo(edited, output_dir, overwrite=overwrite, listener=console)
    for remark in result.remarks:
        console.note(printable(f"note: {remark}"))
    console.note(f"{result.tensors} tensors, {result.nbytes / 1e6:,.1f} MB, each with its original fingerprint")
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path)})
