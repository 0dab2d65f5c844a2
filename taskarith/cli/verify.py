"""`taskarith verify`: whether it is still what was written, and was calculated rightly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.options import OutputOptions, SeedOption
from taskarith.cli.output import printable

if TYPE_CHECKING:
    from taskarith.inspection.verification import Verification

__all__ = ["command"]


def command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder that taskarith wrote, or a task vector file.")],
    *,
    seed: SeedOption = 42,
    output: OutputOptions,
) -> None:
    """Check an output against its record, and recompute a sample.

    Every digest and fingerprint is taken again, and a sample of elements is calculated again from the recorded inputs.

    Exit code 0: everything is as recorded. Exit code 1: something is not, and it is named.

    Example: taskarith verify edited
    """
    from taskarith.inspection.open_tensors import plain
    from taskarith.inspection.verify import verify

    with output.console() as console:
        found = verify(path, seed=seed, listener=console)
    for line in _lines(found):
        console.line(printable(line))
    for note in _notes(found):
        console.note(printable(f"note: {note}"))
    console.result(plain(dataclasses.asdict(found) | {"path": str(found.path), "is_sound": found.is_sound}))
    if not found.is_sound:
        raise typer.Exit(1)


def _lines(found: Verification) -> Iterator[str]:
    """Say what was compared, and what is not as it should be."""
    from taskarith.errors import name_some

    counts = []
    if found.tensors:
        counts.append(f"{found.tensors - len(found.damaged)} of {found.tensors} tensors intact")
    if found.files is not None:
        total = found.files.compared + len(found.files.missing)
        counts.append(f"{found.files.compared - len(found.files.changed)} of {total} files as recorded")
    yield f"{found.path}: {found.kind}, {', '.join(counts)}"
    if found.is_record_changed:
        yield f"the {'header' if found.path.is_file() else 'record'} is not as it was written"
    files = found.files
    named = {
        "not as recorded": (*found.damaged, *(files.changed if files else ())),
        "gone": files.missing if files else (),
        "not in the record": files.added if files else (),
    }
    yield from (f"{what}: {name_some(names)}" for what, names in named.items() if names)
    if found.sampled or not found.unsampled:
        how = f"within {found.tolerance:.0e} of a tensor's largest change: " if found.tolerance else ""
        yield f"{found.sampled:,} elements calculated again in float64: {how}{len(found.wrong)} tensors differ"
    if found.wrong:
        yield f"not what the inputs give: {name_some(found.wrong)}"


def _notes(found: Verification) -> Iterator[str]:
    """Say what was not compared."""
    if found.unsampled:
        yield f"{'not everything' if found.sampled else 'nothing'} was calculated again: {found.unsampled}"
    yield from found.uncovered
