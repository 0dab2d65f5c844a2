"""Other names of options: what other tools call them, and what earlier releases did."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_aliases", "alias_keys", "recipe_first", "renamed_options"]

_ALIASES = {
    "--lr": ("--learning-rate",),
    "--epochs": ("--num-train-epochs",),
    "--num-epochs": ("--num-train-epochs",),
    "--batch-size": ("--per-device-train-batch-size",),
    "--out": ("--output-dir", "--output"),
    "--output": ("--output-dir",),
    "--output-dir": ("--output",),
    "--subtract": ("--negate",),
    "--merge-method": ("--method",),
    "--retain": ("--reference",),
}
"""For each alias, the options it may stand for: the first one that the command has, unless it has the alias itself."""

_RENAMED = ("--retain",)
"""Aliases that are names of an earlier release."""


def add_aliases(parser: Any, context: Any, parameters: Iterable[Any]) -> None:
    """Let a parser of a command take other names of its options.

    :param parser: Click's parser.
    :param context: Of the command.
    :param parameters: All parameters of the command.
    """
    for alias, parameter in _found(parameters).items():
        other = copy.copy(parameter)
        other.opts, other.secondary_opts = [alias], []
        other.add_to_parser(parser, context)


def renamed_options(args: Sequence[str], parameters: Iterable[Any]) -> dict[str, str]:
    """Return the options of an earlier release in a command line, each with the name that it has now."""
    found = _found(parameters)
    old = [name for name in _RENAMED if name in found and any(text.partition("=")[0] == name for text in args)]
    return {name: found[name].opts[0] for name in old}


def recipe_first(args: Sequence[str], command: str | None) -> list[str]:
    """Return a command line of ``apply`` that begins with a YAML file with ``--config`` before it, and others as given.

    That is how mergekit is called; there is no model of such a name.
    """
    is_recipe = command == "apply" and args and args[0].lower().endswith((".yml", ".yaml")) and Path(args[0]).is_file()
    return ["--config", *args] if is_recipe else [*args]


def alias_keys(parameters: Iterable[Any]) -> dict[str, Any]:
    """Return the parameter of each alias, by its key in a configuration file."""
    return {alias.removeprefix("--"): parameter for alias, parameter in _found(parameters).items()}


def _found(parameters: Iterable[Any]) -> dict[str, Any]:
    known = {name: parameter for parameter in parameters for name in parameter.opts}
    found = {alias: next((known[name] for name in names if name in known), None) for alias, names in _ALIASES.items()}
    return {alias: parameter for alias, parameter in found.items() if parameter is not None and alias not in known}
