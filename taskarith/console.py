"""What people see: results on stdout, words, bars and errors on stderr; as tables, as JSON, or quietly."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from taskarith.errors import OutputError, TaskarithError, escaped_lines

__all__ = ["Console"]

_WIDEST = 10_000


class Console:
    """The voice of one command; it is also the listener of the work that the command starts.

    Only the first process of several speaks. Results go to stdout, everything else to stderr. ``NO_COLOR`` is
    honoured by rich; bars are drawn on a terminal only.

    :param as_json: Print one JSON document on stdout and no table.
    :param quiet: Print results only, without words or bars.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._first = os.environ.get("RANK", "0") == "0"
        self._out = RichConsole(soft_wrap=True, highlight=False)
        self._err = _Words(stderr=True, soft_wrap=True, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""

    def result(self, data: Mapping[str, Any]) -> None:
        """Print the machine-readable result, if it was asked for."""
        if self.as_json and self._first:
            is_narrow = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
            with _printing():
                sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=is_narrow, allow_nan=False) + "\n")

    def line(self, text: str) -> None:
        """Print one line of the human-readable result on stdout."""
        self.close()
        if not self.as_json and self._first:
            with _printing():
                self._out.print(Text(text))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout: first column left, the others right."""
        self.close()
        if self.as_json or not self._first:
            return
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        whole = Measurement.get(self._out, self._out.options.update(width=_WIDEST), table).maximum
        with _printing():
            RichConsole(width=whole, highlight=False).print(table, crop=False)  # no cell is cut; a terminal may wrap

    def note(self, message: str) -> None:
        """Print one remark on stderr."""
        if not self.quiet and self._first:
            target = self._bars.console if self._bars else self._err
            with _telling():
                target.print(Text(escaped_lines(message)))  # it may quote a stranger's file

    def progress(self, what: str, done: float, total: float) -> None:
        """Draw or move the bar of ``what``; a new ``what`` (up to its first ``|``) starts a new bar."""
        if self.quiet or not self._first or not self._err.is_terminal:
            return
        label = what.partition("|")[0].strip()
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self._bars = Progress(*columns, TimeRemainingColumn(), console=self._err, transient=True)
            self._bars.start()
        if self._task is None or label != self._what:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task, self._what = self._bars.add_task(what, total=total), label
        self._bars.update(self._task, description=what, completed=done, total=total)

    def error(self, error: TaskarithError) -> None:
        """Print what is wrong and what to do, on two lines."""
        self.close()
        with _telling():
            self._err.print(Text.assemble(("error: ", "bold red"), error.message))
            self._err.print(Text.assemble(("hint:  ", "bold"), error.hint))

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._task, self._what = None, None, ""


class _Words(RichConsole):
    """What goes to stderr; whoever has stopped reading it has not stopped the work."""

    def on_broken_pipe(self) -> None:
        """Say nothing more; by default the process would end."""
        self.quiet = True


@contextmanager
def _printing() -> Generator[None]:
    """See that what is printed on stdout gets there, while it can still be said that it does not."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the interpreter would try again as it ends
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None  # whoever read it has had enough
        what = f"cannot print the result: {error.strerror}"
        raise OutputError(what, "What else the command wrote is complete; print into what has space.") from error


@contextmanager
def _telling() -> Generator[None]:
    """Go on where words cannot be printed on stderr: what was done is done, and its exit code says so."""
    try:
        yield
        sys.stderr.flush()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the interpreter would try again as it ends
