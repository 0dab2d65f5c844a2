"""Tables as rows of text, independent of how they are printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TableRows", "fitted", "short_names", "width_of"]

_WIDTH = 100  # characters
_NAME = 18  # characters of a name, so that a text's compact table is one piece
_SOURCED = re.compile(r"(.+) \((.+)\)")
_GAP = 2  # between columns, as ``Console.table`` draws them


@dataclass(frozen=True)
class TableRows:
    """A table: its title, headings and cells, as ``Console.table`` takes them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def width_of(table: TableRows) -> int:
    """Return the characters of a line of a table."""
    return sum(_widths(table)) - _GAP


def fitted(table: TableRows, widest: int = _WIDTH) -> list[TableRows]:
    """Split a table into pieces, each with the first column and some of the others.

    A column that is too wide gets its own piece.

    :param table: The table.
    :param widest: Characters of a line of a piece.
    """
    widths = _widths(table)
    pieces: list[list[int]] = [[]]
    for index in range(1, len(widths)):
        if pieces[-1] and widths[0] + sum(widths[i] for i in pieces[-1]) + widths[index] - _GAP > widest:
            pieces.append([])
        pieces[-1].append(index)
    return [
        TableRows(
            table.title if not number else f"{table.title}, continued",
            tuple(table.columns[i] for i in (0, *piece)),
            tuple(tuple(row[i] for i in (0, *piece)) for row in table.rows),
        )
        for number, piece in enumerate(pieces)
    ]


def _widths(table: TableRows) -> list[int]:
    columns = zip(table.columns, *table.rows, strict=True)
    return [max(len(line) for cell in column for line in cell.split("\n")) + _GAP for column in columns]


def short_names(names: Sequence[str], longest: int | None = _NAME) -> dict[str, str]:
    """Map each name to its last path component, shortened, or all names to themselves if two would be equal.

    :param names: Of models; one that was read from several sources is followed by its source in brackets.
    :param longest: Characters of a shortened name; None to shorten none.
    """
    for most in (longest, None):
        short = {name: _cut(_last(name), most) for name in names}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def _last(name: str) -> str:
    """Return a name without the folders of the model and of its source."""
    found = _SOURCED.fullmatch(name)
    parts = [name] if found is None else [found[1], found[2]]
    model, *source = (Path(part).name or part for part in parts)
    return f"{model} ({source[0]})" if source else model


def _cut(name: str, longest: int | None) -> str:
    if longest is None or len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{name[-longest // 2 :]}"
