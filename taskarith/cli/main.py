"""The `taskarith` command line: registers the commands."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated

import typer

from taskarith.cli import (  # a command's module has its name
    apply,
    attack,
    clean,
    combine,
    demo,
    diff,
    env,
    eval,  # noqa: A004
    extract,
    finetune,
    importance,
    inspect,
    ood,
    push,
    relate,
    report,
    score,
    sweep,
    undo,
    unlearn,
    verify,
)
from taskarith.cli.guard import guarded, show_unprintable
from taskarith.cli.help import HelpfulCommand, HelpfulGroup
from taskarith.cli.process import end_on_interrupt, escape_logs, open_streams, save_time

__all__ = ["app", "main"]

app = typer.Typer(
    name="taskarith",
    cls=HelpfulGroup,
    help="Edit language models by task arithmetic: finetune, extract, apply, eval.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TASKARITH"},
)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"taskarith {importlib.metadata.version('taskarith')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version, show_envvar=False)
    ] = False,
) -> None:
    """Edit language models by task arithmetic: finetune, extract, apply, eval."""
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


_GROUPS: dict[str, tuple[ModuleType, ...]] = {
    "Edit a model": (unlearn, finetune, extract, combine, apply, demo),
    "Choose coefficients": (sweep, relate, ood, importance),
    "Measure and attack": (eval, score, attack, report),
    "Look, check, undo": (inspect, diff, verify, undo, clean, push, env),
}

for _heading, _modules in _GROUPS.items():
    for _module in _modules:
        _register = app.command(_module.__name__.rpartition(".")[2], cls=HelpfulCommand, rich_help_panel=_heading)
        _register(guarded(_module.command))


def main() -> None:
    """Run the command line."""
    end_on_interrupt()
    open_streams()
    save_time()
    escape_logs()
    try:
        app()
    except OSError as error:  # while printing help, the version or a usage error
        show_unprintable(error)
        sys.exit(1)
