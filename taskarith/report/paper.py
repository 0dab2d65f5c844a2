"""Tables for a paper and for other programs: LaTeX with booktabs, Markdown, and CSV with one row for each number."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from taskarith.checkpoints.ownership import LATEX_HEAD
from taskarith.checkpoints.publish import publish_file
from taskarith.report.scores import metric_title, write_number
from taskarith.report.tables import TableRows, short_names
from taskarith.tidy import COLUMNS, TidyRow

__all__ = ["csv_text", "latex_escaped", "latex_text", "markdown_text", "write_tables"]

_WIDEST = 6
"""Columns of numbers of one LaTeX table."""

_SPECIAL = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": "`{}",
    "'": "'{}",
    "[": "{[}",  # or LaTeX takes it for an argument of the line before
    "]": "{]}",
    "*": "{*}",
}
_FORMULA = re.compile(r"[=+\-@\t\r]")
"""How a text begins that spreadsheets take for a formula."""

_MARKUP = set("\\`*_[]<>|#~&$")

_HEADER = rf"""{LATEX_HEAD}. In the preamble: \usepackage[T1]{{fontenc}} \usepackage{{booktabs}}
% a +- b: 95% interval where it is symmetric, else a with the distances to both ends; over seeds standard deviation.
"""


def csv_text(rows: Sequence[TidyRow]) -> str:
    """Return rows as CSV with line feeds; a text that a spreadsheet would take for a formula begins with ``'``."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _named(rows):
        writer.writerow(_quoted(value) if isinstance(value, str) else value for value in astuple(row))
    return file.getvalue()


def latex_text(rows: Sequence[TidyRow]) -> str:
    """Return rows as LaTeX tables, one for each text: models by metrics, or metrics by models where they are many."""
    by_text: dict[str, list[TidyRow]] = {}
    for row in _named(rows):
        by_text.setdefault(row.text, []).append(row)
    return _HEADER + "".join(table for text, some in by_text.items() for table in _tables(text, some))


def markdown_text(tables: Sequence[TableRows]) -> str:
    """Return tables as Markdown, each below its title; no text in them is markup."""
    return "\n".join(line for table in tables for line in _markdown(table)) + "\n"


def _markdown(table: TableRows) -> list[str]:
    head, *rows = ([_plain(cell) for cell in row] for row in (table.columns, *table.rows))
    rule = ["---", *["---:"] * (len(head) - 1)]
    title = [f"**{_plain(table.title)}**", ""] if table.title else []
    return [*title, *(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]


def _plain(text: str) -> str:
    words = " ".join(text.split())
    return "".join(f"\\{one}" if one in _MARKUP else one for one in words if one.isprintable())


def write_tables(rows: Sequence[TidyRow], csv_path: Path | None, latex_path: Path | None, overwrite: bool) -> None:
    """Write both kinds of file, as far as they are named, each at once.

    :raises OutputError: A file may not be replaced, or cannot be written.
    """
    for path, make in ((csv_path, csv_text), (latex_path, latex_text)):
        if path is not None:
            with publish_file(path, overwrite) as partial:
                partial.write_text(make(rows), encoding="utf-8", newline="")


def latex_escaped(text: str) -> str:
    """Return a text as LaTeX sets it, whatever stands in it."""
    escaped = "".join(_SPECIAL.get(one, one) if one.isprintable() else "?" for one in text)
    return escaped.replace("--", "-{}-{}")  # or two of them would become a dash


def _named(rows: Sequence[TidyRow]) -> list[TidyRow]:
    """Name models without the folders that they lie in, as far as they stay apart."""
    names = short_names(list(dict.fromkeys(row.model for row in rows)), longest=None)
    return [TidyRow(names[row.model], row.text, _apart(row.metric), *astuple(row)[3:]) for row in rows]


def _apart(metric: str) -> str:
    """Return a metric without the folder of the model that it compares with."""
    start, found, model = metric.partition(" from ") if metric.startswith("kl") else metric.partition(" with ")
    return f"{start}{found}{Path(model).name or model}" if found else metric


def _quoted(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return f"'{text}" if _FORMULA.match(text) else text


def _tables(text: str, rows: Sequence[TidyRow]) -> list[str]:
    models, metrics = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("model", "metric"))
    cells = {(row.model, row.metric): _cell(row) for row in rows}
    titles = {name: latex_escaped(metric_title(name).replace("_", " ")) for name in metrics}
    names = {name: latex_escaped(name) for name in models}
    if len(metrics) > _WIDEST and len(models) < len(metrics):
        grid = {titles[metric]: [cells.get((model, metric), "--") for model in models] for metric in metrics}
        return _chunks(_caption(text, rows), list(names.values()), grid)
    grid = {names[model]: [cells.get((model, metric), "--") for metric in metrics] for model in models}
    return _chunks(_caption(text, rows), list(titles.values()), grid)


def _chunks(caption: str, heads: Sequence[str], grid: Mapping[str, Sequence[str]]) -> list[str]:
    starts = range(0, len(heads), _WIDEST)
    return [
        _table(caption, heads[at : at + _WIDEST], {name: row[at : at + _WIDEST] for name, row in grid.items()})
        for at in starts
    ]


def _table(caption: str, heads: Sequence[str], grid: Mapping[str, Sequence[str]]) -> str:
    lines = [" & ".join([name, *cells]) + r" \\" for name, cells in grid.items()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            " & ".join(["", *heads]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _caption(text: str, rows: Sequence[TidyRow]) -> str:
    counts = sorted({row.n for row in rows if row.n is not None})
    span = f"$n = {counts[0]}$" + (f" to ${counts[-1]}$" if len(counts) > 1 else "") if counts else ""
    if any(row.deviation is not None for row in rows):
        kind = rf"mean $\pm$ standard deviation over seeds, {span}"
    elif any(row.low is not None for row in rows):
        kind = rf"95\% intervals, {span}"
    else:
        kind = span
    return ": ".join(filter(None, [latex_escaped(text or "over all texts"), kind]))


def _cell(row: TidyRow) -> str:
    value = _number(row.metric, row.value)
    if row.deviation is not None:
        return rf"${value} \pm {_number(row.metric, row.deviation)}$"
    if row.low is None or row.high is None or not math.isfinite(row.value):
        return f"${value}$"
    down, up = (_number(row.metric, abs(end - row.value)) for end in (row.low, row.high))
    return rf"${value} \pm {up}$" if up == down else f"${value}^{{+{up}}}_{{-{down}}}$"


def _number(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return r"\infty" if value > 0 else r"-\infty" if value < 0 else r"\mathrm{NaN}"
    mantissa, found, exponent = write_number(metric, value).partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if found else mantissa
