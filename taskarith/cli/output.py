"""How commands print: tables, scores, and text of files that nobody has vetted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskarith.console import Console
    from taskarith.evaluation.score import Scores
    from taskarith.report.tables import TableRows

__all__ = ["printable", "show_relation", "show_scores", "show_tables"]


def printable(text: str) -> str:
    """Return text from a file that nobody has vetted so that it can steer no terminal and be written as UTF-8."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def show_scores(scores: Scores, console: Console) -> None:
    """Print the tables of scores, and what is missing or does not compare as remarks."""
    from taskarith.report.scores import score_remarks, score_tables

    show_tables(score_tables(scores), console)
    for remark in score_remarks(scores):
        console.note(printable(remark))


def show_tables(tables: Sequence[TableRows], console: Console) -> None:
    """Print tables, an empty line between two."""
    for number, table in enumerate(tables):
        if number:
            console.line("")
        rows = [[printable(cell) for cell in row] for row in table.rows]
        console.table(printable(table.title), [printable(column) for column in table.columns], rows)


def show_relation(tables: Sequence[TableRows], lines: Iterable[str], remarks: Iterable[str], console: Console) -> None:
    """Print tables, an empty line after each, then what follows from them, and remarks."""
    for table in tables:
        console.table(table.title, table.columns, table.rows)
        console.line("")
    for line in lines:
        console.line(line)
    for remark in remarks:
        console.note(f"note: {remark}")
