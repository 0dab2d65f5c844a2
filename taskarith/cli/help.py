"""How commands are called: the layout of ``--help``, other names of options, and wrong calls as any other error."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from taskarith.cli.aliases import add_aliases, recipe_first, renamed_options
from taskarith.errors import UsageError, readable

__all__ = ["HelpfulCommand", "HelpfulGroup"]

_GIVEN = "taskarith.given"
_UNCUT = 1000  # characters: more than any first sentence has


class HelpfulCommand(TyperCommand):
    """A command that shows its options under the headings that ``rich_help_panel`` gives them."""

    def get_short_help_str(self, limit: int = _UNCUT) -> str:
        """Return the first sentence, uncut, for the list of commands and for shell completion."""
        return super().get_short_help_str(limit)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line, which error messages quote."""
        ctx.meta[_GIVEN] = [*args]
        for old, new in renamed_options(args, self.get_params(ctx)).items():
            typer.echo(f"note: {old} is called {new} now", err=True)
        return super().parse_args(ctx, recipe_first(args, self.name))

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser, which also takes other names of options."""
        parser = super().make_parser(ctx)
        add_aliases(parser, ctx, self.get_params(ctx))
        return parser

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options under each heading; those without a heading come last."""
        rows = [(_heading(parameter), parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        _write_sections(sorted(rows, key=lambda row: row[0] == "Options"), formatter)


class HelpfulGroup(TyperGroup):
    """A group that shows its commands under the headings that ``rich_help_panel`` gives them."""

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run a command; a wrong call is shown as any other error is, with a hint at what to type."""
        try:
            code = super().main(args, *more, standalone_mode=False, **options)
        except _WrongCallError as error:
            if not standalone_mode:
                raise
            from taskarith.console import Console

            Console().error(_explained(error))
            sys.exit(error.exit_code)
        return sys.exit(code or 0) if standalone_mode else code

    def get_params(self, ctx: Any) -> Any:
        """Return the options of the group itself, without environment variables."""
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            parameter.show_envvar = False
        return parameters

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the name and the whole first sentence of each command."""
        commands = [self.commands[name] for name in self.list_commands(ctx)]
        rows = [(_heading(command), (str(command.name), command.get_short_help_str())) for command in commands]
        _write_sections(rows, formatter)


_WrongCallError: Any = typer.BadParameter.__mro__[1]
"""What all errors of parsing a command line are; typer has no public name for it."""

_SYNONYMS = {
    **dict.fromkeys(("merge", "add", "negate", "subtract", "edit"), "apply"),
    **dict.fromkeys(("train", "fine-tune", "learn"), "finetune"),
    **dict.fromkeys(("evaluate", "measure", "benchmark"), "eval"),
    **dict.fromkeys(("info", "show"), "inspect"),
    "compare": "diff",
    "restore": "undo",
}
"""What people type for a command."""


def _explained(error: Any) -> UsageError:
    """Return a wrong call in our words: what is wrong, and what to type."""
    message, context = error.format_message().strip(), getattr(error, "ctx", None)
    path = getattr(context, "command_path", "taskarith")
    message = re.sub(r"\s*(\(Possible options: .*\)|\(?Did you mean .*)$", "", message).rstrip(".")
    hint = f"See {path} --help."
    if near := _options_like(message, error) or _commands_like(message, context):
        hint = f"Did you mean {' or '.join(near)}?"
    elif re.match("No such option: '?-[^-]", message) and path.endswith(" combine"):
        hint = "Put spaces around every sign, as in 'V1:0.6 - V2:0.4'."
    elif message.startswith("Got unexpected extra argument") and _has_option(context, "--negate"):
        hint = "Vectors follow --add or --negate, as in --negate forget.safetensors."
    elif message.startswith("Got unexpected extra argument") and _has_option(context, "--data"):
        hint = "Name a folder or a pattern in quotes for several files, as in --data 'docs/*.txt'."
    elif any(f"valid {kind}" in message for kind in ("number", "float", "integer")):  # typer before 0.29 says float
        what = "a whole number" if "integer" in message else "a number"
        message, name = f"{_value_of(error.param, context)} is not {what}", error.param.opts[0]
        message = f"invalid value for '{name}': {message}"
        if name == "--alpha":
            hint = "Give one, as in --alpha 0.5; eval and sweep take several."
    return UsageError(readable(message[:1].lower() + message[1:]), hint)


def _options_like(message: str, error: Any) -> list[str]:
    """Return those of the options that Click thinks of that look like the one that was typed."""
    found = re.match("No such option: -*([^ ]+)", message)
    options = {name.strip("-"): name for name in getattr(error, "possibilities", None) or ()}
    return [options[name] for name in difflib.get_close_matches(found[1], options, 2)] if found else []


def _commands_like(message: str, context: Any) -> list[str]:
    """Return the commands that somebody may have meant, if the message says that there is none of a name."""
    found = re.match("No such command '(.*)'", message)
    if found is None or context is None:
        return []
    name, commands = found[1].lower(), context.command.commands
    return [_SYNONYMS[name]] if name in _SYNONYMS else difflib.get_close_matches(name, commands, 2)


def _has_option(context: Any, name: str) -> bool:
    return context is not None and any(name in parameter.opts for parameter in context.command.params)


def _value_of(parameter: Any, context: Any) -> str:
    """Return what was given for an option, in quotation marks."""
    given: list[str] = context.meta.get(_GIVEN, [])
    for name in parameter.opts:
        for place, text in enumerate(given):
            if text.startswith(f"{name}="):
                return f"'{text.partition('=')[2]}'"
            if text == name and place + 1 < len(given):
                return f"'{given[place + 1]}'"
    return "this"


def _heading(item: Any) -> str:
    if getattr(item, "param_type_name", "") == "argument":
        return "Arguments"
    panel = getattr(item, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "Options"


def _write_sections(rows: Iterable[tuple[str, tuple[str, str] | None]], formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for heading, row in rows:
        if row is not None:
            sections.setdefault(heading, []).append(row)
    for heading, section_rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(section_rows)
