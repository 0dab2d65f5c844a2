"""`python -m benchmarks.methods`: processor time of merge methods beside mergekit's; prints a table.

Two fine-tunes of a model in bfloat16; the same method and values in both programs, mergekit in float32 with bfloat16
output. taskarith runs before and after mergekit, and the better of the two counts. Ten minutes at the default size.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import as_installed
from benchmarks.models import hidden_size, write_models
from benchmarks.peers import install_mergekit, mergekit_versions
from benchmarks.results import bullets, machine, table

_PARAMETERS = 0.47e9
_HALF = {"density": 0.5}
_METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "linear": ("task_arithmetic", {}),
    "ties": ("ties", _HALF),
    "breadcrumbs": ("breadcrumbs", {**_HALF, "gamma": 0.01}),
    "model_stock": ("model_stock", {}),
    "dare_ties": ("dare_ties", _HALF),
    "della": ("della", {**_HALF, "epsilon": 0.15}),
    "slerp": ("slerp", {}),
}
"""By our name: mergekit's, and its parameters."""


def main() -> None:
    """Measure all methods, or those that are named, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--parameters", type=float, default=_PARAMETERS, help="of the model")
    parser.add_argument("--only", nargs="+", choices=_METHODS, default=list(_METHODS), help="methods to run")
    options = parser.parse_args()
    mergekit, rows = install_mergekit(), []
    with tempfile.TemporaryDirectory() as work:
        models = write_models(Path(work) / "models", hidden_size(options.parameters), 2)
        file, out = Path(work) / "merge.yml", f"{work}/out"
        theirs = [mergekit, "-m", "mergekit.scripts.run_yaml", str(file), out, "--quiet"]
        ours = [sys.executable, "-m", "taskarith", "apply", "--config", str(file), "-q", "-o", out]
        for number, name in enumerate(options.only):
            file.write_text(json.dumps(_recipe(models, name)), encoding="utf-8")  # which is YAML, too
            if not number:
                _seconds(ours, Path(work))  # what is compiled, is compiled then
            first, other, second = (_seconds(command, Path(work)) for command in (ours, theirs, ours))
            best = min(first, second)
            rows.append(
                [
                    name,
                    f"{best[0]:.1f}",
                    f"{other[0]:.1f}",
                    f"{other[0] / best[0]:.1f}",
                    f"{best[1]:.1f}, {other[1]:.1f}",
                ]
            )
            print(rows[-1], flush=True)
    heads = ["", "taskarith", "mergekit", "times less", "elapsed: taskarith, mergekit"]
    print("\n\n".join([bullets(machine(mergekit_versions(mergekit))), table(heads, rows)]))


def _recipe(models: list[Path], name: str) -> dict[str, Any]:
    """Return a merge as both programs read it."""
    base, *tuned = map(str, models)
    method, parameters = _METHODS[name]
    config = {"merge_method": method, "base_model": base, "dtype": "float32", "out_dtype": "bfloat16"}
    if name == "slerp":
        ends = [{"model": one} for one in tuned]
        return {**config, "base_model": tuned[0], "models": ends, "parameters": {"t": 0.4}}
    if name == "model_stock":
        return {**config, "models": [{"model": one} for one in tuned]}
    weighted = zip(tuned, (0.6, 0.4), strict=True)
    return {**config, "models": [{"model": one, "parameters": {"weight": w, **parameters}} for one, w in weighted]}


def _seconds(command: list[str], work: Path) -> tuple[float, float]:
    """Return processor seconds in programs and in the system, and those elapsed."""
    shutil.rmtree(work / "out", ignore_errors=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, env=as_installed() | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, time.perf_counter() - start


if __name__ == "__main__":
    main()
