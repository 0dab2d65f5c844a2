"""Printing: results on stdout as tables or JSON; remarks, progress bars and errors on stderr."""

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
    """The output of one command, and the listener of the work it starts.

    Of several processes only the first prints. Results go to stdout, everything else to stderr. ``NO_COLOR`` is
    honoured by rich; progress bars are shown on a terminal only.

    :param as_json: Print one JSON document on stdout instead of tables.
    :param quiet: Print results only, without remarks or progress bars.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._first = os.environ.get("RANK", "0") == "0"
        self._out = RichConsole(soft_wrap=True, highlight=False)
        self._err = _ErrorConsole(stderr=True, soft_wrap=True, highlight=False)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""

    def result(self, data: Mapping[str, Any]) -> None:
        """Print the result as JSON, if --json was given."""
        if self.as_json and self._first:
            is_narrow = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
            with _reporting_failures():
                sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=is_narrow, allow_nan=False) + "\n")

    def line(self, text: str) -> None:
        """Print one line of the human-readable result on stdout."""
        self.close()
        if not self.as_json and self._first:
            with _reporting_failures():
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
        width = Measurement.get(self._out, self._out.options.update(width=_WIDEST), table).maximum
        with _reporting_failures():
            RichConsole(width=width, highlight=False).print(
                table, crop=False
            )  # cells are never cut; a terminal may wrap lines

    def note(self, message: str) -> None:
        """Print one remark on stderr."""
        if not self.quiet and self._first:
            target = self._bars.console if self._bars else self._err
            with _ignoring_failures():
                target.print(Text(escaped_lines(message)))  # it may quote an untrusted file

    def progress(self, what: str, done: float, total: float) -> None:
        """Start or advance the bar of ``what``; a new ``what`` (up to its first ``|``) starts a new bar."""
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
        with _ignoring_failures():
            self._err.print(Text.assemble(("error: ", "bold red"), error.message))
            self._err.print(Text.assemble(("hint:  ", "bold"), error.hint))

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._task, self._what = None, None, ""


class _ErrorConsole(RichConsole):
    """The console on stderr; a closed pipe does not stop the work."""

    def on_broken_pipe(self) -> None:
        """Stop printing; by default the process would end."""
        self.quiet = True


@contextmanager
def _reporting_failures() -> Generator[None]:
    """Flush stdout, and raise an error if it cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the interpreter would try again at exit
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None  # the reader closed the pipe
        message = f"cannot print the result: {error.strerror}"
        raise OutputError(
            message, "Other outputs of the command are complete; redirect to a disk with free space."
        ) from error


@contextmanager
def _ignoring_failures() -> Generator[None]:
    """Go on if stderr cannot be written: the exit code still tells how the work ended."""
    try:
        yield
        sys.stderr.flush()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the interpreter would try again at exit
