"""The option --config: YAML option values or, for apply, a recipe, an edit's record or a mergekit configuration."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from taskarith.checkpoints.places import absolute_names
from taskarith.cli.aliases import alias_keys
from taskarith.edit.read_recipe import parse_recipe
from taskarith.edit.recipe import Recipe
from taskarith.errors import TaskarithError, name_some, readable
from taskarith.untrusted import MalformedError, parse_json, parse_yaml, read_text

__all__ = ["ConfigFile", "RecipeFile", "load_config", "read_recipe", "use_config"]


def load_config(path: Path) -> dict[str, Any]:
    """Read a configuration file: a map of keys, with dashes, to values.

    :raises typer.BadParameter: It is not YAML, or not a map.
    """
    try:
        # the record of an edit may list every tensor, which takes a YAML parser minutes
        values = (parse_json if path.suffix == ".json" else parse_yaml)(read_text(path)) or {}
    except MalformedError as error:
        raise typer.BadParameter(readable(f"cannot read {path}: {error}")) from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} must map option names to values, as in 'learning-rate: 2e-5'")
    return {str(key): value for key, value in values.items()}


def use_config(context: typer.Context, path: Path, given: Mapping[str, Any]) -> None:
    """Make option values the defaults of a command.

    :raises typer.BadParameter: A key is not an option, or a value is neither plain nor a list of plain values.
    """
    known = alias_keys(context.command.params) | {_key(parameter): parameter for parameter in context.command.params}
    values = {key.replace("_", "-"): value for key, value in given.items()}
    if len(values) < len(given):
        duplicates = sorted(key for key in given if key.replace("_", "-") != key and key.replace("_", "-") in given)
        raise typer.BadParameter(readable(f"{path} has keys both with - and with _: {name_some(duplicates)}"))
    if unknown := sorted(values.keys() - known.keys() | values.keys() & {"config", "help"}):
        names = sorted({*map(_key, context.command.params)} - {"config", "help"})
        problem = readable(f"{path} has unknown keys: {name_some(unknown)}")
        near = [name for key in unknown for name in difflib.get_close_matches(key, names, 2)]
        raise typer.BadParameter(f"{problem}; {'near are' if near else 'known are'} {', '.join(near or names)}")
    named = [known[key].name for key in values]
    if twice := sorted(key for key in values if named.count(known[key].name) > 1):
        raise typer.BadParameter(readable(f"{path} has an option under several names: {name_some(twice)}"))
    defaults = dict(context.default_map or {})
    for key, value in values.items():
        many = getattr(known[key], "multiple", False) or known[key].nargs != 1
        if any(isinstance(item, dict | list) for item in (value if isinstance(value, list) and many else [value])):
            raise typer.BadParameter(f"{path}: {key} must be a plain value{' or a list of them' if many else ''}")
        if isinstance(value, bool) and not getattr(known[key], "is_flag", False):
            raise typer.BadParameter(f"{path}: {key} cannot be {str(value).lower()}; if it is a string, quote it")
        wrapped = many and value is not None and not isinstance(value, list)
        defaults[str(known[key].name)] = [value] if wrapped else value
    context.default_map = defaults


def _key(parameter: Any) -> str:
    """Return the key of an option in a configuration file: its long name without dashes."""
    return next((text[2:] for text in parameter.opts if text.startswith("--")), str(parameter.name))


def _load_options(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None and not context.resilient_parsing:
        use_config(context, path, load_config(path))
    return path


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, the record of an edit, or a mergekit configuration.

    :raises typer.BadParameter: It is none of these, or a value cannot be read.
    """
    try:
        values = load_config(path)
        if "kind" in values:  # the record of an edit
            values = absolute_names(values, path.parent)
        return replace(parse_recipe(values), path=path)
    except TaskarithError as error:
        raise typer.BadParameter(f"{path}: {error.message}. {error.hint}") from error


def _load_recipe(context: typer.Context, recipe: Recipe | None) -> Recipe | None:
    """Make the option values of a recipe the defaults."""
    if recipe is not None and recipe.path is not None and not context.resilient_parsing:
        use_config(context, recipe.path, dict(recipe.options))
    return recipe


def _option(text: str, callback: Callable[..., Any], **more: Any) -> Any:
    return typer.Option("--config", help=text, is_eager=True, callback=callback, metavar="FILE.yaml", **more)


ConfigFile = Annotated[
    Path | None,
    _option(
        "YAML file of option values; flags and environment variables override it.",
        _load_options,
        exists=True,
        dir_okay=False,
    ),
]
RecipeFile = Annotated[
    Recipe | None,
    _option(
        "A recipe, the taskarith.json of an edit, or a mergekit file; flags override it.",
        _load_recipe,
        parser=lambda text: read_recipe(Path(text)),
    ),
]
