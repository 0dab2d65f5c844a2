"""`python -m benchmarks.relate`: two stored vectors related, beside reading their files once by two threads."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models, plain_copy
from benchmarks.measure import Measure, measure, warm_up

_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write two vectors, measure in turn, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often, with a warm cache")
    parser.add_argument("--scale", type=float, default=1.0, help="times the 1.42 B parameters; 0.03 for a trial")
    parser.add_argument("--work-dir", type=Path, default=_HERE / ".work", help="for models and vectors: 14 GB")
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.work_dir.resolve(), prefix="relate-") as work:
        _run(Path(work), models.hidden_size(models.PHI_PARAMETERS * options.scale), options.rounds)


def _run(work: Path, hidden: int, rounds: int) -> None:
    base, vectors = _write_vectors(work, hidden)
    commands = {
        "plain read": [sys.executable, plain_copy.__file__, "read", *map(str, vectors)],
        "taskarith relate": [*_OURS, "relate", *map(str, vectors), "--model", str(base), "--quiet"],
    }
    found: dict[str, list[Measure]] = {name: [] for name in commands}
    _measure(commands["taskarith relate"], work)  # compiles the kernels, if that has not been done
    for _ in range(rounds):
        for name, command in commands.items():
            warm_up(vectors)
            found[name].append(_measure(command, work))
    gigabytes = sum(vector.stat().st_size for vector in vectors) / 1e9
    print(
        f"two vectors of {models.parameter_count(hidden) / 1e9:.3g} B bfloat16, {gigabytes:.2f} GB, medians of {rounds}"
    )
    for name, each in found.items():
        seconds, processor, anonymous = (
            statistics.median(getattr(one, key) for one in each) for key in ("seconds", "processor", "anonymous")
        )
        print(f"{name:18} {seconds:6.2f} s, in programs {processor:6.2f} s, {anonymous / 1e6:5.0f} MB of its own")
    pairs = zip(found["taskarith relate"], found["plain read"], strict=True)
    print(f"seconds, as a ratio: {statistics.median(ours.seconds / read.seconds for ours, read in pairs):.2f}")


def _write_vectors(work: Path, hidden: int) -> tuple[Path, list[Path]]:
    """Write a base, two fine-tunes and their vectors in bfloat16; of the models only the base stays."""
    base, *tuned = models.write_models(work / "models", hidden, 2)
    vectors = []
    for model in tuned:
        vectors.append(work / f"{model.name}.safetensors")
        extract = [*_OURS, "extract", str(base), str(model), "--dtype", "bfloat16", "--output", str(vectors[-1])]
        _measure([*extract, "--quiet"], work)
        (model / models.WEIGHTS).unlink()
    return base, vectors


def _measure(command: list[str], work: Path) -> Measure:
    return measure(command, work, work / "log", {"HF_HUB_OFFLINE": "1"})


_OURS = (sys.executable, "-m", "taskarith")

if __name__ == "__main__":
    main()
