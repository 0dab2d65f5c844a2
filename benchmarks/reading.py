"""`python -m benchmarks.reading`: `verify`, `diff` and `inspect` beside plainly reading the same files; prints a table.

Inputs are in the page cache; medians of interleaved rounds. Needs 17 GB of disk at the default size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import plain_copy
from benchmarks.edits import weights
from benchmarks.measure import Measure, as_installed, measure, warm_up
from benchmarks.models import PHI_PARAMETERS, hidden_size, write_models
from benchmarks.results import bullets, machine, table

_OURS = (sys.executable, "-m", "taskarith")
_OR_DIFFERENT = ("sh", "-c", '"$@"; test $? -le 1', "sh")  # diff ends with 1 where models differ


def main() -> None:
    """Write models, an edit and a vector, and measure what reads them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--parameters", type=float, default=PHI_PARAMETERS, help="of the model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work-dir", type=Path, help="for the models; needs the room")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        work = Path(folder)
        base, tuned = write_models(work / "models", hidden_size(options.parameters), 1)
        edited, vector = work / "edited", work / "vector.safetensors"
        _run("extract", base, tuned, "-o", vector)
        _run("apply", base, "--negate", f"{vector}:0.7", "-o", edited)
        cases = {
            "diff of two models": (("diff", base, tuned), [weights(base), weights(tuned)]),
            "inspect of a model": (("inspect", base), [weights(base)]),
            "verify of a vector": (("verify", vector), [vector, weights(base), weights(tuned)]),
            "verify of an edited model": (("verify", edited), [weights(edited), weights(base), vector]),
        }
        rows = [_row(title, words, files, work, options.rounds) for title, (words, files) in cases.items()]
    heads = ["", "taskarith, s", "read GB", "the files, GB", "plain reading, s", "ratio", "own memory, MB"]
    print("\n\n".join([bullets(machine("plain reading by two threads")), table(heads, rows)]))


def _row(title: str, words: Sequence[str | Path], files: Sequence[Path], work: Path, rounds: int) -> list[str]:
    commands = (
        (*_OR_DIFFERENT, *_OURS, *map(str, words)),
        (sys.executable, plain_copy.__file__, "read", *map(str, files)),
    )
    runs: list[tuple[Measure, ...]] = []
    for _ in range(rounds + 1):
        warm_up(files)
        runs.append(tuple(measure(command, work / "none", work / "log", {}) for command in commands))
    ours, plain = zip(*runs[1:], strict=True)
    seconds = median(run.seconds for run in ours), median(run.seconds for run in plain)
    read = median(run.read for run in ours), sum(file.stat().st_size for file in files)
    memory = median(run.anonymous for run in ours)
    row = [title, f"{seconds[0]:.2f}", f"{read[0] / 1e9:.2f}", f"{read[1] / 1e9:.2f}", f"{seconds[1]:.2f}"]
    row += [f"{seconds[0] / seconds[1]:.2f}", f"{memory / 1e6:.0f}"]
    print(row, flush=True)
    return row


def _run(*words: str | Path) -> None:
    subprocess.run([*_OURS, *map(str, words), "--quiet"], env=as_installed(), check=True)


if __name__ == "__main__":
    main()
