"""Outputs to publish, and the program started as people start it."""

from __future__ import annotations

import subprocess
import sys

from taskarith.checkpoints.provenance import write_provenance


def fill(folder, text="new"):
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)
    write_provenance(folder, {"kind": "evaluation"})


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "taskarith", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
