"""Recipes written to files, and `apply` with one."""

from __future__ import annotations

import yaml
from typer.testing import CliRunner

from taskarith.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["apply", *map(str, arguments)], env={"COLUMNS": "500"})


def write(path, values):
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path
