"""`taskarith verify`: whether it is still what was written, and was calculated rightly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.common import ConfigFile, JsonFlag, QuietFlag, SeedOption, printable

__all__ = ["command"]


def command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Output of apply, or a task vector file.")],
    seed: SeedOption = 42,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Take every fingerprint again, and calculate a sample of elements again from the recorded inputs.

    Exit code 0: everything is as recorded. Exit code 1: something is not, and it is named.

    Example: taskarith verify edited
    """
    del config
    from taskarith.console import Console
    from taskarith.edit.verify import verify
    from taskarith.errors import name_some
    from taskarith.vectors.contents import plain

    console = Console(as_json=as_json, quiet=quiet)
    found = verify(path, seed=seed, listener=console)
    console.close()
    console.line(f"{found.path}: {found.kind}, {found.tensors - len(found.damaged)} of {found.tensors} tensors intact")
    if found.damaged:
        console.line(printable(f"not as recorded: {name_some(found.damaged)}"))
    if found.unsampled:
        console.note(f"note: nothing was calculated again: {found.unsampled}")
    else:
        console.line(f"{found.sampled:,} elements calculated again in float64: {len(found.wrong)} tensors differ")
    if found.wrong:
        console.line(printable(f"not what the inputs give: {name_some(found.wrong)}"))
    console.result(plain(dataclasses.asdict(found) | {"path": str(found.path), "is_sound": found.is_sound}))
    if not found.is_sound:
        raise typer.Exit(1)
