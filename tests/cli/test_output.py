"""How commands print: tables apart from each other, and text of files that steers no terminal."""

from __future__ import annotations

import pytest

from taskarith.cli.output import printable, show_tables
from taskarith.report.tables import TableRows


class Console:
    """Keeps what is printed, in order."""

    def __init__(self):
        self.printed = []

    def line(self, text):
        self.printed.append(text)

    def table(self, title, columns, rows):
        self.printed.append((title, list(columns), [list(row) for row in rows]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("\x1b[31mred", "\N{REPLACEMENT CHARACTER}[31mred"),
        ("two\nlines\tand", "two\N{REPLACEMENT CHARACTER}lines\N{REPLACEMENT CHARACTER}and"),
        ("\u202eright", "\N{REPLACEMENT CHARACTER}right"),
        ("\udcff", "\N{REPLACEMENT CHARACTER}"),  # a file's name that is not Unicode
        ("\N{CJK UNIFIED IDEOGRAPH-7801}\N{LATIN SMALL LETTER E WITH ACUTE}",) * 2,
    ],
)
def test_text_of_files_steers_no_terminal(text, shown):
    assert printable(text) == shown


def test_tables_are_parted_by_a_line_and_their_cells_printable():
    console = Console()
    show_tables([TableRows("t\x07", ["c\x07\nd"], [["\x1b"]]), TableRows("u", [], [])], console)
    bell = "\N{REPLACEMENT CHARACTER}"
    assert console.printed == [(f"t{bell}", [f"c{bell}\nd"], [[bell]]), "", ("u", [], [])]


def test_what_follows_comes_after_the_tables():
    console = Console()
    show_tables([TableRows("t", ["c"], [["1"]])], console, ["so", "it is\x07"])
    assert console.printed == [("t", ["c"], [["1"]]), "", "so", "it is\N{REPLACEMENT CHARACTER}"]
    console = Console()
    show_tables([], console, ["so"])
    assert console.printed == ["so"]
