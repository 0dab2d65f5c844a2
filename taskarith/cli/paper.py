"""The options `--csv` and `--latex`: the numbers of a result as files for a paper and for other programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.errors import OutputError

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.tidy import TidyResult

__all__ = ["Paper", "PaperGroup"]


@dataclass(frozen=True)
class Paper:
    """Files of tables to write.

    :param csv: One row for each number.
    :param latex: Tables for a paper.
    """

    csv: Path | None = None
    latex: Path | None = None

    def check(self, overwrite: bool, inputs: Iterable[str | Path], output_dir: Path | None = None) -> None:
        """Refuse files that could not be written, before any work is done.

        :param overwrite: Whether earlier ones may be replaced.
        :param inputs: What the command reads.
        :param output_dir: The folder of results, in which they may not lie: its record covers all that is in it.
        :raises OutputError: They could not.
        """
        from taskarith.checkpoints.targets import check_target

        named = [(path, ends) for path, ends in ((self.csv, ".csv"), (self.latex, ".tex")) if path is not None]
        for path, ends in named:
            if path.suffix != ends:
                raise OutputError(f"cannot write a table to {path}", f"Name a {ends} file.")
            folder = [] if output_dir is None else [output_dir]
            if any(one.resolve() in path.resolve().parents for one in folder):
                raise OutputError(f"{path} lies in the folder of results", f"Name a file outside of {output_dir}.")
            check_target(path, overwrite, is_folder=False, inputs=inputs)

    def write(self, result: TidyResult, overwrite: bool, console: Console) -> None:
        """Write the numbers of a result into the files that were named; of several processes the first does."""
        if self.csv is None and self.latex is None:
            return
        from taskarith.checkpoints.team import launched_team
        from taskarith.report.paper import write_tables

        rows = result.tidy()
        launched_team().by_first(lambda: write_tables(rows, self.csv, self.latex, overwrite))
        for path in filter(None, (self.csv, self.latex)):
            console.note(f"{len(rows):,} numbers are in {path}")


class _PaperOptions:
    """The options that make ``Paper``."""

    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write every number, one a row, to a .csv file.", show_default="none"
        ),
    ]
    latex: Annotated[
        Path | None,
        typer.Option(
            "--latex", metavar="FILE", help="Write the tables for a paper to a .tex file.", show_default="none"
        ),
    ]


PaperGroup = Annotated[Paper, _PaperOptions]
