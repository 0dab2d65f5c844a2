"""Printing: results on stdout as tables or JSON; remarks, progress bars and errors on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from taskarith.errors import OutputError, TaskarithError, escaped_lines, named_by_id

__all__ = ["Console"]

_WIDEST = 10_000

_HEARTBEAT = 30.0
"""Seconds of silence before the first line about long work, where there is no terminal."""


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
        self._what, self._done = "", 0.0
        self._began = self._silent = 0.0

    @property
    def width(self) -> int:
        """Characters of a line of the terminal, at least 80; 80 where there is none."""
        return max(80, self._out.width) if self._out.is_terminal else 80

    def result(self, data: Mapping[str, Any]) -> None:
        """Print the result as JSON, if --json was given."""
        if self.as_json and self._first:
            is_narrow = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
            with _reporting_failures():
                sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=is_narrow, allow_nan=False) + "\n")

    def text(self, text: str) -> None:
        """Print a result for another program on stdout, as it is."""
        self.close()
        if self._first:
            with _reporting_failures():
                sys.stdout.write(text)

    def line(self, text: str) -> None:
        """Print one line of the human-readable result on stdout."""
        self.close()
        if not self.as_json and self._first:
            with _reporting_failures():
                self._out.print(Text(named_by_id(text)))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout: first column left, the others right.

        On a terminal that is too narrow for it, it is cut between columns, and the first column is repeated; cells are
        never cut.
        """
        self.close()
        if self.as_json or not self._first:
            return
        widest = self._out.width if self._out.is_terminal else _WIDEST
        start, chosen = title, [0]
        for column in range(1, len(columns)):
            if len(chosen) > 1 and self._width(_table(start, columns, rows, [*chosen, column])) > widest:
                self._print(_table(start, columns, rows, chosen))
                start, chosen = "", [0]
            chosen.append(column)
        self._print(_table(start, columns, rows, chosen))

    def _width(self, table: Table) -> int:
        return Measurement.get(self._out, self._out.options.update(width=_WIDEST), table).maximum

    def _print(self, table: Table) -> None:
        title, table.title = table.title, None  # a title in the table is broken at its width
        with _reporting_failures():
            if title is not None:
                self._out.print(Text(str(title), style="bold"))
            RichConsole(width=self._width(table), highlight=False).print(table, crop=False)

    def note(self, message: str) -> None:
        """Print one remark on stderr."""
        if not self.quiet and self._first:
            target = self._bars.console if self._bars else self._err
            with _ignoring_failures():
                target.print(Text(escaped_lines(named_by_id(message))))  # it may quote an untrusted file

    def next(self, *words: object) -> None:
        """Print the command that is likely to be wanted next, on stderr.

        :param words: Of it, after ``taskarith``; in capitals what the user is to fill in.
        """
        self.note(f"next: {shlex.join(['taskarith', *map(str, words)])}")

    def progress(self, what: str, done: float, total: float) -> None:
        """Start or advance the bar of ``what``; a new ``what`` (up to its first ``|``), or less done, starts a new bar.

        Where stderr is not a terminal, long work prints a line now and then instead.
        """
        if self.quiet or not self._first:
            return
        label = what.partition("|")[0].strip()
        is_new = label != self._what or done < self._done
        self._what, self._done = label, done
        if not self._err.is_terminal:
            self._beat(label, done, total, is_new=is_new)
            return
        if self._bars is None:
            self._bars = Progress(*_columns(), console=self._err, transient=True)
            self._bars.start()
        if self._task is None or is_new:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(what, total=total)
        self._bars.update(self._task, description=what, completed=done, total=total)

    def _beat(self, label: str, done: float, total: float, *, is_new: bool) -> None:
        """Print how far long work is: after half a minute, and then at growing intervals."""
        now = time.monotonic()
        if is_new:
            self._began, self._silent = now, _HEARTBEAT
        elapsed = now - self._began
        if elapsed >= self._silent and 0 < done < total:
            self._silent = elapsed + max(_HEARTBEAT, elapsed / 4)
            left = elapsed * (total - done) / done
            self.note(f"{label}: {done / total:.0%} after {_minutes(elapsed)}, about {_minutes(left)} left")

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


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], chosen: Sequence[int]) -> Table:
    """Make a table of some columns."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index in chosen:
        table.add_column(columns[index], justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in chosen))
    return table


def _columns() -> tuple[ProgressColumn, ...]:
    """Return what a bar shows: a long description is cut rather than what is left."""
    description = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    share = TextColumn("{task.percentage:>3.0f}%")
    return (description, BarColumn(), share, TimeElapsedColumn(), TimeRemainingColumn())


def _minutes(seconds: float) -> str:
    """Write a duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
