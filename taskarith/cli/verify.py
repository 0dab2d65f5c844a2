"""`taskarith verify`: check that an output is unchanged and was calculated correctly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from taskarith.cli.options import OutputOptions, SeedOption
from taskarith.cli.output import printable

if TYPE_CHECKING:
    from taskarith.inspection.verification import Verification

__all__ = ["command"]


def command(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Folder that taskarith wrote, or a task vector file; or its hub id.")
    ],
    *,
    seed: SeedOption = 42,
    output: OutputOptions,
) -> None:
    """Check an output against its record, and recompute a sample.

    It recomputes every digest and fingerprint, and a sample of elements from the recorded inputs.
    The exit code is 0 if everything matches the record, else 1; what does not match is listed.

    Example: taskarith verify edited
    """
    from taskarith.inspection.open_tensors import plain
    from taskarith.inspection.verify import verify

    with output.console() as console:
        result = verify(path, seed=seed, listener=console)
    for line in _lines(result):
        console.line(printable(line))
    for note in _notes(result):
        console.note(printable(f"note: {note}"))
    console.result(plain(dataclasses.asdict(result) | {"path": str(result.path), "is_sound": result.is_sound}))
    if not result.is_sound:
        raise typer.Exit(1)


def _lines(result: Verification) -> Iterator[str]:
    """Describe what was compared, and what does not match."""
    from taskarith.errors import name_some

    counts = []
    if result.tensors:
        counts.append(f"{result.tensors - len(result.damaged)} of {result.tensors} tensors intact")
    if result.files is not None:
        total = result.files.compared + len(result.files.missing)
        counts.append(f"{result.files.compared - len(result.files.changed)} of {total} files as recorded")
    yield f"{result.path}: {result.kind}, {', '.join(counts)}"
    if result.is_record_changed:
        yield f"the {'header' if result.path.is_file() else 'record'} was changed after it was written"
    files = result.files
    named = {
        "not as recorded": (*result.damaged, *(files.changed if files else ())),
        "missing": files.missing if files else (),
        "not in the record": files.added if files else (),
    }
    yield from (f"{state}: {name_some(names)}" for state, names in named.items() if names)
    if result.sampled or not result.unsampled:
        how = f"within {result.tolerance:.0e} of a tensor's largest change: " if result.tolerance else ""
        yield f"{result.sampled:,} elements recomputed in float64: {how}{len(result.wrong)} tensors differ"
    if result.wrong:
        yield f"differ from what the inputs give: {name_some(result.wrong)}"


def _notes(result: Verification) -> Iterator[str]:
    """Describe what was not compared."""
    if result.unsampled:
        yield f"{'not everything' if result.sampled else 'nothing'} was recomputed: {result.unsampled}"
    yield from result.uncovered
