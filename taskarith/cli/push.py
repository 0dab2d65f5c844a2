"""`taskarith push`: upload a model, an adapter or a task vector to the hub."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from taskarith.cli.options import OutputOptions
from taskarith.cli.output import printable

__all__ = ["command"]


def command(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Model or adapter folder that taskarith wrote, or a task vector file."),
    ],
    repo: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub; it is made if there is none.")
    ],
    *,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only its owners see.")] = False,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Branch to upload to; it is made if there is none.", show_default="main"),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of an eval of this model, whose numbers are put on its card.",
            show_default="no numbers",
        ),
    ] = None,
    output: OutputOptions,
) -> None:
    """Upload a model, an adapter or a task vector to the hub.

    It is verified first, gets a model card, and tells nothing of the machine it was made on. A repository that holds
    something else is refused. Log in with: hf auth login.

    Example: taskarith push edited ann/my-model --private
    """
    from taskarith.hub.push import push

    with output.console() as console:
        result = push(path, repo, private=private, revision=revision, results=results, listener=console)
    for remark in result.remarks:
        console.note(printable(f"note: {remark}"))
    made = "a new repository" if result.is_new else "an existing repository"
    console.note(f"{len(result.files)} files, {result.nbytes / 1e6:,.1f} MB, to {made}")
    console.line(result.url)
    console.result(dataclasses.asdict(result) | {"path": str(result.path)})
