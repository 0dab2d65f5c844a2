"""The options `--format`, `--csv` and `--latex`: the numbers of a result for a paper and for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.output import printable, show_tables
from taskarith.errors import OutputError, UsageError

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.evaluation.score import Scores
    from taskarith.report.tables import TableRows
    from taskarith.tidy import TidyResult

__all__ = ["FullFlag", "Paper", "PaperGroup"]

FORMATS = ("table", "markdown", "csv", "latex")


@dataclass(frozen=True)
class Paper:
    """How numbers are printed, and files of them to write.

    :param form: One of ``FORMATS``; CSV and LaTeX have all numbers.
    :param csv: One row for each number.
    :param latex: Tables for a paper.
    """

    form: str = "table"
    csv: Path | None = None
    latex: Path | None = None

    def check(
        self, as_json: bool, overwrite: bool, inputs: Iterable[str | Path], output_dir: Path | None = None
    ) -> None:
        """Refuse an unknown format and files that could not be written, before any work is done.

        :param as_json: Whether --json is given.
        :param overwrite: Whether earlier ones may be replaced.
        :param inputs: What the command reads.
        :param output_dir: The folder of results, in which they may not lie: its record covers all that is in it.
        :raises UsageError: There is no such format, or two are wanted.
        :raises OutputError: They could not.
        """
        if self.form not in FORMATS:
            raise UsageError(f"unknown format '{self.form}'", f"Use one of {', '.join(FORMATS)}.")
        if self.form != "table" and as_json:
            raise UsageError("--format and --json exclude each other", "Give one of them.")
        from taskarith.checkpoints.targets import check_target

        named = [(path, ends) for path, ends in ((self.csv, ".csv"), (self.latex, ".tex")) if path is not None]
        for path, ends in named:
            if path.suffix != ends:
                raise OutputError(f"cannot write a table to {path}", f"Name a {ends} file.")
            folder = [] if output_dir is None else [output_dir]
            if any(one.resolve() in path.resolve().parents for one in folder):
                raise OutputError(f"{path} lies in the folder of results", f"Name a file outside of {output_dir}.")
            check_target(path, overwrite, is_folder=False, inputs=inputs)

    def show(
        self,
        result: TidyResult,
        tables: Sequence[TableRows],
        console: Console,
        *,
        lines: Iterable[str] = (),
        remarks: Iterable[str] = (),
    ) -> None:
        """Print a result.

        :param result: What CSV and LaTeX have: all its numbers.
        :param tables: What else is printed of it.
        :param console: Where to print.
        :param lines: Sentences below the tables; on stderr where another program reads the output.
        :param remarks: Sentences on stderr.
        """
        from taskarith.report.paper import csv_text, latex_text, markdown_text

        if self.form == "table":
            show_tables(tables, console, lines)
        elif self.form == "markdown":
            console.text(markdown_text(tables))
        else:
            console.text((csv_text if self.form == "csv" else latex_text)(result.tidy()))
        for remark in [*(lines if self.form != "table" else ()), *remarks]:
            console.note(printable(remark))

    def score_tables(self, scores: Scores, console: Console, *, full: bool, title: str = "") -> list[TableRows]:
        """Return the tables of scores: of all numbers, or with one row a model.

        :param console: Where they are to be printed.
        :param full: Whether all numbers are shown.
        :param title: What stands before the titles.
        """
        from taskarith.report.layers import layer_tables
        from taskarith.report.scores import score_tables
        from taskarith.report.summary import summary_tables

        everything = [*score_tables(scores), *layer_tables(scores, scores.texts)] if full else []
        tables = everything or summary_tables(scores, console.width)
        if self.form != "table" and not full:
            return [replace(table, title=title) for table in tables]  # theirs name an option
        return [replace(table, title=f"{title}: {table.title}" if title else table.title) for table in tables]

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

    form: Annotated[
        str,
        typer.Option("--format", metavar="|".join(FORMATS), help="How numbers are printed; csv and latex: all."),
    ]
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
FullFlag = Annotated[bool, typer.Option("--full", help="Print every number, not one row a model.")]
