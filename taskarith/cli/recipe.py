"""The option --config of apply: a recipe, the record of an edit, or a configuration of mergekit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from taskarith.checkpoints.places import absolute_names
from taskarith.cli.common import config_option, load_config, use_config
from taskarith.edit.recipe import Recipe, parse_recipe
from taskarith.errors import TaskarithError

__all__ = ["RecipeFile"]


def _load_recipe(context: typer.Context, path: Path | None) -> Recipe | None:
    """Read the file, let its option values be defaults, and return the recipe as the value of this option."""
    if path is None or context.resilient_parsing:
        return None
    try:
        values = load_config(path)
        if "kind" in values:  # the record of an edit
            values = absolute_names(values, path.parent)
        recipe = replace(parse_recipe(values), path=path)
        use_config(context, path, dict(recipe.options))
    except TaskarithError as error:
        raise typer.BadParameter(f"{path}: {error.message}. {error.hint}") from error
    return recipe


RecipeFile = Annotated[
    Path | None,
    config_option("A recipe, the taskarith.json of an edit, or a mergekit file; a flag wins over it.", _load_recipe),
]
