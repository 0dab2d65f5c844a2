"""The tests that depend on a device, by pytest, on as many workers as there are cores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.bench import Bench
from benchmarks.results import bullets

__all__ = ["suite"]

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("arithmetic", "attacks", "edit", "evaluation", "merging", "models", "relations", "sweeps", "training")
_FOLDERS += ("unlearning", "vectors")


def suite(bench: Bench) -> str:
    """Run the tests, and return what came out and which failed."""
    if not bench.has_time("the tests", 300 / (os.cpu_count() or 1)):
        return ""
    workers = ["--numprocesses", "auto", "--dist", "loadgroup"] if (os.cpu_count() or 1) > 1 else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "--tb", "line"]
    command += [*workers, *(f"tests/{name}" for name in _FOLDERS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    bench.has_failed = bench.has_failed or done.returncode != 0
    named = [line for line in lines if re.match(r"(FAILED|ERROR|SKIPPED)", line)]
    print("\n".join([*named, *lines[-1:]]), flush=True)
    about = (
        f"`pytest {' '.join(command[-len(_FOLDERS) :])}`, a device named by no test being the GPU where there is one."
    )
    return f"{about}\n\n{bullets([*lines[-1:], *named])}"
