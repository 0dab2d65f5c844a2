"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.options import OutputOptions, OverwriteFlag
from taskarith.cli.output import printable

__all__ = ["command"]


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Folders that eval, score, sweep, attack or relate wrote with -o."),
    ],
    *,
    path: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .html file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "What the model knows",
    overwrite: OverwriteFlag = False,
    output: OutputOptions,
) -> None:
    """Write measurements as one page that a colleague can read.

    Example: taskarith report runs/sweep runs/eval runs/attack -o report.html

    The page is one file: verdicts in sentences, numbers with intervals, figures, and samples side by side.
    """
    from taskarith.report.report import report

    with output.console() as console:
        result = report(folders, path, title=title, overwrite=overwrite)
        for sentence in result.verdicts:
            console.note(printable(sentence))
        console.line(str(result.path))
        console.result({"path": str(result.path), "verdicts": list(result.verdicts), "nbytes": result.nbytes})
