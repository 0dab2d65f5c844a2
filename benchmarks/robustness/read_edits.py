"""Readers of what says how to edit, and how to undo it: records, patches, recipes, settings."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import typer

from benchmarks.robustness import sound
from benchmarks.robustness.damage import PATCH, changed, damage, each
from benchmarks.robustness.runner import Reader
from taskarith.checkpoints.provenance import read_provenance
from taskarith.cli.config import load_config, use_config
from taskarith.cli.main import app
from taskarith.edit.read_recipe import parse_recipe
from taskarith.edit.undo import undo
from taskarith.edit.undo_patch import open_patch
from taskarith.inspection.inspect import inspect
from taskarith.inspection.verify import verify
from taskarith.vectors.vector import BaseRecord

__all__ = ["EDITS"]


def _read_record(folder: Path) -> None:
    each(
        lambda: verify(folder / "edited"),
        lambda: inspect(folder / "edited"),
        lambda: undo(folder / "edited", folder / "out"),
        lambda: parse_recipe(load_config(folder / "edited/taskarith.json")),
    )


def _read_undo(folder: Path) -> None:
    undo(folder / "edited", folder / "out")


def _read_recipe(folder: Path) -> None:
    path = changed(folder, "recipe.yaml")
    recipe = parse_recipe(load_config(path))
    recipe.edit()
    use_config(_context("apply"), path, dict(recipe.options))


def _prepare_recipe(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_model(folder / "tuned", seed=1)
    for name, text in sound.RECIPES.items():
        placed = text.replace("base", str(folder / "base")) if name != "recipe.yaml" else text
        (folder / name).write_text(placed.replace(f"{folder / 'base'}_model", "base_model"), encoding="utf-8")


def _prepare_settings(folder: Path) -> None:
    (folder / "finetune.yaml").write_text(sound.RECIPES["finetune.yaml"], encoding="utf-8")


def _read_settings(folder: Path) -> None:
    use_config(_context("finetune"), folder / "finetune.yaml", load_config(folder / "finetune.yaml"))


def _context(command: str) -> typer.Context:
    return typer.Context(_commands()[command])


@functools.cache
def _commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # ty: ignore[unresolved-attribute]


def _open_record(folder: Path) -> None:
    """Read a record for what it says of the base and of the edit."""
    record = read_provenance(folder / "edited") or {}
    BaseRecord.from_json(record.get("base"))
    parse_recipe(record)


def _open_patch(folder: Path) -> None:
    """Unpack all files that a patch holds."""
    patch = open_patch(folder / "edited")
    for name in patch.names:
        patch.read(name)


EDITS = (
    Reader("record", sound.make_edit, damage("edited/taskarith.json"), _read_record, _open_record, share=100),
    Reader("undo", sound.make_edit, damage(PATCH), _read_undo, _open_patch, share=100),
    Reader("recipe", _prepare_recipe, damage("recipe.yaml", "mergekit.yaml", "slices.yaml"), _read_recipe),
    Reader("settings", _prepare_settings, damage("finetune.yaml"), _read_settings),
)
