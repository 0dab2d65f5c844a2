"""Run commands: in a process of their own, or in this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from taskarith.cli.main import app


def run(*arguments, cwd=None, **environment):
    """Run the installed command in a process of its own."""
    command = shutil.which("taskarith", path=str(Path(sys.executable).parent)) or shutil.which("taskarith")
    return subprocess.run(
        [command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"} | environment,
    )


def invoke(*arguments):
    """Run a command in this process: the same code without the start of an interpreter."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
