"""`taskarith undo`: from the output of an edit back to its input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, JsonFlag, OverwriteFlag, QuietFlag, printable

__all__ = ["command"]


def command(
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="Output of apply --keep-undo.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.")],
    overwrite: OverwriteFlag = False,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Restore the model that was edited, bit for bit, from the patch that apply --keep-undo left; name what cannot be.

    Example: taskarith undo edited -o original
    """
    del config
    from taskarith.console import Console
    from taskarith.edit.undo import undo

    console = Console(as_json=as_json, quiet=quiet)
    result = undo(edited, output_dir, overwrite=overwrite, listener=console)
    console.close()
    for remark in result.remarks:
        console.note(printable(f"note: {remark}"))
    console.note(f"{result.tensors} tensors, {result.nbytes / 1e6:,.1f} MB, each with the fingerprint it had")
    console.line(str(result.path))
    console.result(dataclasses.asdict(result) | {"path": str(result.path)})
