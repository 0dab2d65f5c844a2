"""The layout of ``--help``: commands and options under headings, first sentences in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["HelpfulCommand", "HelpfulGroup"]

_UNCUT = 1000  # characters: more than any first sentence has


class HelpfulCommand(TyperCommand):
    """A command that shows its options under the headings that ``rich_help_panel`` gives them."""

    def get_short_help_str(self, limit: int = _UNCUT) -> str:
        """Return the first sentence, uncut, for the list of commands and for shell completion."""
        return super().get_short_help_str(limit)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the options under each heading; those without a heading come last."""
        rows = [(_heading(parameter), parameter.get_help_record(ctx)) for parameter in self.get_params(ctx)]
        _write_sections(sorted(rows, key=lambda row: row[0] == "Options"), formatter)


class HelpfulGroup(TyperGroup):
    """A group that shows its commands under the headings that ``rich_help_panel`` gives them."""

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
