"""A call of another verb: what is printed is the command that does what was done."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Call"]

_SINGULAR = {"alphas": "alpha"}
"""Options whose keyword in Python is a plural."""


@dataclass(frozen=True)
class Call:
    """A call of a verb.

    :param command: Name of the verb's command.
    :param inputs: Its arguments: models.
    :param output: What it writes.
    :param options: Its options by their keywords; those that are None, False or empty are left out of the command.
    """

    command: str
    inputs: tuple[str, ...]
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the output."""
        return self.output.name

    @property
    def words(self) -> list[str]:
        """The command without its output, as a list of words."""
        words = [self.command, *self.inputs]
        for keyword, value in self.options.items():
            words += _option(_SINGULAR.get(keyword, keyword), value)
        return words

    @property
    def texts(self) -> set[str]:
        """All texts in it that can name a model, a data set or a vector."""
        return {*self.inputs, *(text for value in self.options.values() for text in _texts(value))}

    def __str__(self) -> str:
        return shlex.join(["taskarith", *self.words, "-o", str(self.output)])


def _option(keyword: str, value: Any) -> list[str]:
    """Return an option as words."""
    option = f"--{keyword.replace('_', '-')}"
    if value is None or value is False or value in ((), ""):
        return []
    if value is True:
        return [option]
    if isinstance(value, Mapping):
        return [word for name, text in value.items() for word in (option, f"{name}={text}")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(one, str) for one in value):
            return [word for one in value for word in (option, one)]
        return [option, ",".join(map(_number, value))]
    return [option, _number(value)]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]
