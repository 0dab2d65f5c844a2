"""Printing of tables, scores and text from untrusted files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.errors import OutputError

if TYPE_CHECKING:
    from taskarith.checkpoints.forecast import Forecast
    from taskarith.console import Console
    from taskarith.evaluation.score import Scores
    from taskarith.report.tables import TableRows

__all__ = ["FORMATS", "check_plot", "printable", "show_cost", "show_relation", "show_scores", "show_tables"]


def printable(text: str) -> str:
    """Replace characters of untrusted text that control a terminal or cannot be written as UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


FORMATS = ("table", "markdown", "csv", "latex")


def show_scores(scores: Scores, console: Console, *, full: bool = True, form: str = "table") -> None:
    """Print tables of scores, then remarks on what is missing or not comparable.

    :param full: Whether all numbers are shown, or one row a model.
    :param form: One of ``FORMATS``; CSV and LaTeX have all numbers.
    """
    from taskarith.report.layers import layer_tables
    from taskarith.report.paper import csv_text, latex_text, markdown_text
    from taskarith.report.scores import score_remarks, score_tables
    from taskarith.report.summary import summary_tables

    tables = [*score_tables(scores), *layer_tables(scores, scores.texts)] if full else summary_tables(scores)
    if form == "table":
        show_tables(tables, console)
    elif form == "markdown":
        console.text(markdown_text(tables if full else [replace(one, title="") for one in tables]))
    else:
        console.text((csv_text if form == "csv" else latex_text)(scores.tidy()))
    for remark in score_remarks(scores):
        console.note(printable(remark))


def check_plot(plot: Path, overwrite: bool, inputs: Sequence[str | Path]) -> None:
    """Refuse a plot that could not be written, before any work is done.

    :raises OutputError: It could not.
    """
    from taskarith.checkpoints.targets import check_target

    if plot.suffix not in {".svg", ".png", ".pdf"}:
        raise OutputError(f"cannot write a plot to {plot}", "Name a .svg, .png or .pdf file.")
    check_target(plot, overwrite, is_folder=False, inputs=inputs)


def show_cost(cost: Forecast, console: Console, *, disk_only: bool = False) -> None:
    """Tell what a run would take, and what would fail.

    :param disk_only: Whether it takes more time than reading and writing do.
    """
    what = "reading and writing: about" if disk_only else "about"
    console.note(
        f"{what} {cost.seconds:,.1f} s at {cost.read_rate / 1e6:,.0f} MB/s reading and {cost.write_rate / 1e6:,.0f} "
        f"MB/s writing; about {cost.memory_bytes / 1e6:,.0f} MB of memory"
    )
    for problem in cost.problems:
        console.note(f"would fail: {problem}")


def show_tables(tables: Sequence[TableRows], console: Console) -> None:
    """Print tables separated by empty lines."""
    for number, table in enumerate(tables):
        if number:
            console.line("")
        rows = [[printable(cell) for cell in row] for row in table.rows]
        console.table(
            printable(table.title), ["\n".join(map(printable, column.split("\n"))) for column in table.columns], rows
        )


def show_relation(tables: Sequence[TableRows], lines: Iterable[str], remarks: Iterable[str], console: Console) -> None:
    """Print tables, each followed by an empty line, then conclusions and remarks."""
    for table in tables:
        console.table(table.title, table.columns, table.rows)
        console.line("")
    for line in lines:
        console.line(line)
    for remark in remarks:
        console.note(f"note: {remark}")
