"""`taskarith clean`: remove from a run what holds the forgotten text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.options import OutputOptions
from taskarith.cli.output import printable

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of unlearn.")],
    *,
    forget_data: Annotated[
        bool,
        typer.Option(
            "--forget-data", help="Remove the text's vector, its fine-tune, and the records and pages that quote it."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    output: OutputOptions,
) -> None:
    """Remove from a run of unlearn what holds the text.

    That is the vector of the text, its fine-tune, and the records and pages that quote it. The edited model, the
    numbers and the pictures stay.

    Example: taskarith clean unlearned --forget-data
    """
    from taskarith.unlearning.clean import clean

    with output.console() as console:
        result = clean(run, forget_data=forget_data, dry_run=dry_run)
    for path in result.removed:
        console.line(printable(str(path)))
    what = "would be removed" if dry_run else "removed"
    size = f"{result.nbytes / 1e6:,.1f} MB; the space on the disk is freed, not overwritten"
    console.note(f"{what}: {size if result.removed else 'nothing, the run does not hold the text any more'}")
    for place in result.remaining:
        console.note(printable(f"not removed: {place}"))
    console.result(result.to_json())
