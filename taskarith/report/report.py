"""The verb `report`: one page from the folders that `eval`, `score`, `sweep`, `attack` and `relate` wrote."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskarith.calls import listed
from taskarith.checkpoints.publish import check_target, publish_file
from taskarith.errors import OutputError, TaskarithError, UsageError
from taskarith.progress import Listener
from taskarith.report.page import Page, Part, render

__all__ = ["PAGE_NAME", "TITLE", "ReportResult", "draw_beside", "report"]

PAGE_NAME, TITLE = "report.html", "What the model knows"

_STILL_THERE = (
    "The fine-tune, the task vector, the records of measurements and caches still hold the text; a vector and its base "
    "give the fine-tune back. taskarith clean RUN --forget-data removes what a run of unlearn keeps of it."
)
_LIMITS = (
    "Other prompts, other languages and stronger attackers may bring out what these numbers do not show.",
    "Intervals are over the samples that were measured; they do not hold for other texts.",
    _STILL_THERE,
)


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    :param path: The page.
    :param verdicts: What it says, each a sentence.
    :param nbytes: Its size.
    """

    path: Path
    verdicts: tuple[str, ...]
    nbytes: int


def report(
    folders: str | Path | Sequence[str | Path],
    output: str | Path = PAGE_NAME,
    *,
    title: str = TITLE,
    overwrite: bool = False,
) -> ReportResult:
    """Write what measurements say as one page of HTML, which asks for nothing else and is readable without scripts.

    :param folders: Outputs of ``evaluate``, ``score``, ``sweep``, ``attack`` and ``relate``, in the order of the page.
    :param output: The file to write, ``*.html``.
    :param title: Of the page.
    :param overwrite: Replace an earlier report.
    :raises UsageError: No folder is given, or one is the output of another command.
    :raises DataError: A folder has no results, or they are broken.
    :raises OutputError: The output exists or cannot be written.
    """
    paths, target = [Path(folder) for folder in listed(folders)], Path(output)
    if not paths:
        raise UsageError("no folder is given", "Name one, as in: taskarith report runs/eval -o report.html")
    if target.suffix != ".html":
        raise OutputError(f"cannot write a report to {target}", "Name an .html file.")
    check_target(target, overwrite, is_folder=False, inputs=paths)
    from taskarith.report.folders import part_of  # late: heavy imports, which commands without a page do without

    parts = tuple(part_of(path) for path in paths)
    page = _page(title, parts)
    with publish_file(target, overwrite) as partial:
        partial.write_text(page, encoding="utf-8")
    return ReportResult(target, tuple(one for part in parts for one in part.verdicts), len(page.encode()))


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
"""What a disk that is full or fails says."""


def draw_beside(
    target: Path | None, listener: Listener, plot: Callable[[Any, Path], object] | None = None
) -> Callable[[Any, Path], None]:
    """Return what draws a result into its folder before that is published: its figures, and the page of a report.

    What cannot be drawn does not cost the measurement: it is noted, and left out. What the disk does not take is an
    error, as of everything else in the folder.

    :param target: Where the folder will lie.
    :param listener: Receives the notes.
    :param plot: Draws the figures.
    """

    def draw(result: Any, folder: Path) -> None:
        name = folder.name if target is None else target.resolve().name
        steps = {"the figures": lambda: plot and plot(result, folder), "the report": lambda: _write(folder, name)}
        for what, step in steps.items():
            before = set(folder.iterdir())
            try:
                step()
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise
                for path in set(folder.iterdir()) - before:  # the beginning of a file
                    path.unlink()
                reason = error.message if isinstance(error, TaskarithError) else f"{type(error).__name__}: {error}"
                listener.note(f"{what} could not be drawn: {reason}")

    return draw


def _write(folder: Path, name: str) -> None:
    from taskarith.report.folders import part_of

    page = _page(TITLE, [part_of(folder, name)])
    (folder / PAGE_NAME).write_text(page, encoding="utf-8")


def _page(title: str, parts: Sequence[Part]) -> str:
    return render(Page(title, tuple(parts), _LIMITS, datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC")))
