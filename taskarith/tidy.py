"""Results as tables in Python and in files: one row for each number, and how a result shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["COLUMNS", "Brief", "Tabular", "TidyResult", "TidyRow"]

_MOST_ROWS = 60
"""Rows that a notebook shows of a table."""


@dataclass(frozen=True)
class TidyRow:
    """One number of a result.

    :param model: What it is of: a model, an edit, an attack, a vector or a pair of vectors.
    :param text: What it was measured on; empty for a number over several texts.
    :param metric: Its name.
    :param value: The number; with several seeds, the mean.
    :param low: Lower end of its 95% interval; None without one.
    :param high: Upper end.
    :param n: Samples, prompts or questions it rests on; with several seeds, their number.
    :param deviation: Standard deviation (n - 1) over seeds; None of a single one.
    """

    model: str
    text: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    deviation: float | None = None


COLUMNS = tuple(field.name for field in fields(TidyRow))
"""Names of the columns of a tidy table."""


class Brief:
    """A result that says on one line what it is."""

    def _brief(self) -> Mapping[str, object]:
        """Return what a reader wants to know of it first, by name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={_short(value)}" for name, value in self._brief().items())
        return f"{type(self).__name__}({facts})"


class Tabular(Brief):
    """A result that is a table."""

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the table, all with the same columns."""
        raise NotImplementedError

    def to_pandas(self) -> DataFrame:
        """Return the table as a ``pandas.DataFrame``."""
        import pandas as pd

        return pd.DataFrame([dict(row) for row in self._rows()])

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it; whatever stands in it is text."""
        rows = self._rows()
        heads = "".join(f"<th>{escape(str(name))}</th>" for name in (rows[0] if rows else ()))
        lines = [f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows[:_MOST_ROWS]]
        more = f"<p>{len(rows) - _MOST_ROWS:,} more rows: to_pandas()</p>" if len(rows) > _MOST_ROWS else ""
        head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(lines)}</tbody>"
        return f"<p><code>{escape(repr(self))}</code></p><table>{head}{body}</table>{more}"


class TidyResult(Tabular):
    """A result whose table has one row for each number."""

    def tidy(self) -> list[TidyRow]:
        """Return every number with its interval."""
        raise NotImplementedError

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [asdict(row) for row in self.tidy()]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_short, value[:4]))
        return f"[{shown}{f', and {len(value) - 4} more' if len(value) > 4 else ''}]"
    return repr(value) if isinstance(value, str) else str(value)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124  (NaN)
        return "<td></td>"
    return f"<td>{escape(f'{value:.4g}' if isinstance(value, float) else str(value))}</td>"
