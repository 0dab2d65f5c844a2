"""Printing of tables, scores and text from untrusted files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskarith.errors import OutputError

if TYPE_CHECKING:
    from taskarith.checkpoints.forecast import Forecast
    from taskarith.console import Console
    from taskarith.report.tables import TableRows

__all__ = ["check_plot", "printable", "show_cost", "show_tables"]


def printable(text: str) -> str:
    """Replace characters of untrusted text that control a terminal or cannot be written as UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


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


def show_tables(tables: Sequence[TableRows], console: Console, lines: Iterable[str] = ()) -> None:
    """Print tables, and below them lines, separated by empty lines."""
    for number, table in enumerate(tables):
        if number:
            console.line("")
        rows = [[printable(cell) for cell in row] for row in table.rows]
        console.table(
            printable(table.title), ["\n".join(map(printable, column.split("\n"))) for column in table.columns], rows
        )
    for number, line in enumerate(lines):
        if not number and tables:
            console.line("")
        console.line(printable(line))
