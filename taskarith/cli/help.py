"""What ``--help`` prints: commands and options under headings, and no sentence cut off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["HelpfulCommand", "HelpfulGroup"]

_WHOLE = 1000  # characters of a description: all of its first sentence


class HelpfulCommand(TyperCommand):
    """A command that shows its options under the headings that ``rich_help_panel`` gives them."""

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        """Return the first sentence, uncut, for the list of commands and for shell completion."""
        return super().get_short_help_str(limit)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options of each heading; those without one come last."""
        rows = [(_heading(parameter), parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        _write_sections(sorted(rows, key=lambda row: row[0] == "Options"), formatter)


class HelpfulGroup(TyperGroup):
    """A group that shows its commands under the headings that ``rich_help_panel`` gives them."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options without their environment variables, which nobody sets for them."""
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            parameter.show_envvar = False
        return parameters

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the name and the whole first sentence of each command."""
        commands = [self.commands[name] for name in self.list_commands(ctx)]
        rows = [(_heading(command), (str(command.name), command.get_short_help_str())) for command in commands]
        _write_sections(rows, formatter)


def _heading(thing: Any) -> str:
    if getattr(thing, "param_type_name", "") == "argument":
        return "Arguments"
    panel = getattr(thing, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "Options"


def _write_sections(rows: Iterable[tuple[str, tuple[str, str] | None]], formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for heading, row in rows:
        if row is not None:
            sections.setdefault(heading, []).append(row)
    for heading, found in sections.items():
        with formatter.section(heading):
            formatter.write_dl(found)
