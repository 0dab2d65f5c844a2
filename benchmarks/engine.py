"""`make bench`: taskarith's engine beside mergekit, torch and a plain copy; writes benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models
from benchmarks.edits import EDITS
from benchmarks.measure import can_drop_caches
from benchmarks.peers import OURS, install_mergekit, mergekit_versions
from benchmarks.results import Report, machine
from benchmarks.runner import Bench

_HERE = Path(__file__).resolve().parent
_TOKENS = 2048
"""Vocabulary of the model whose low rank is extracted: mergekit decomposes the embedding and the head, too."""
_LONG = "whole-rank"
_CURVE = (0.1e9, models.PHI_PARAMETERS, 7e9)


def main() -> int:
    """Run the benchmark; return 1 if taskarith failed or gave a single wrong element."""
    options = _options()
    if options.before and not (options.before / "taskarith" / "__main__.py").is_file():
        raise SystemExit(f"{options.before} is not a checkout of taskarith.")
    options.work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.work_dir.resolve(), prefix="bench-") as work:
        report = _run(options, Path(work))
    print(report.text())
    wrong = [edit.title for edit in report.edits if OURS not in edit.warm or edit.differing.get(OURS, 0)]
    for title in wrong:
        print(f"taskarith failed, or its result is not the right one: {title}", file=sys.stderr)
    return int(bool(wrong))


def _run(options: argparse.Namespace, work: Path) -> Report:
    hidden, *sizes = (models.hidden_size(parameters * options.scale) for parameters in (models.PHI_PARAMETERS, *_CURVE))
    remarks = [] if can_drop_caches() else ["cold cache: /proc/sys/vm/drop_caches cannot be written here"]
    if options.no_cold:
        remarks = ["cold cache: left out by --no-cold"]
    remarks += _check_room(work, hidden, sizes, options.only)
    python, peers = _find_mergekit(options.mergekit_python)
    remarks += [] if python else [peers]
    report = Report(models.parameter_count(hidden), options.rounds, machine(peers), remarks=remarks)
    bench = Bench(work, hidden, python, report, options.output, not options.no_cold, options.before)
    bench.compile_kernels()
    edits = [name for name in EDITS if name in options.only]
    if edits:
        print(f"writing models of {report.parameters / 1e9:.3g} B parameters", flush=True)
        folders = models.write_models(work / "models", hidden, 2)
        for name in edits:
            if name != "rank":
                bench.compare(name, folders, options.rounds)
        shutil.rmtree(work / "models")
    if "rank" in edits:
        bench.compare("rank", models.write_models(work / "models", hidden, 2, 1, _TOKENS), options.rounds)
        shutil.rmtree(work / "models")
    if "memory" in options.only:
        bench.measure_sizes(sizes)
    return report


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="warm rounds of every edit; then one cold round")
    parser.add_argument("--no-cold", action="store_true", help="leave the cold rounds out")
    parser.add_argument("--scale", type=float, default=1.0, help="times the 1.42 B parameters; 0.03 for a trial")
    parser.add_argument("--work-dir", type=Path, default=_HERE / ".work", help="for models and outputs; needs the room")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS.md", help="file of the report")
    parser.add_argument("--mergekit-python", help="interpreter that has mergekit; by default one is installed")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="checkout of an earlier commit, run in turn")
    parts = [*EDITS, "memory"]
    chosen = [part for part in parts if part != _LONG]
    about = f"{', '.join(parts)}; all but {_LONG}, which takes mergekit many minutes"
    parser.add_argument("--only", nargs="+", choices=parts, default=chosen, metavar="PART", help=about)
    return parser.parse_args()


def _check_room(work: Path, hidden: int, sizes: list[int], parts: list[str]) -> list[str]:
    """Say how much disk is needed and end if that is not there; leave out the largest model if only it is too large."""
    model, largest = 2 * models.parameter_count(hidden), 2 * models.parameter_count(sizes[-1])
    needs = dict.fromkeys(EDITS, 12 * model) | {"memory": 6 * model}
    need, free = max(needs[part] for part in parts), shutil.disk_usage(work).free
    print(
        f"needs {need / 1e9:.1f} GB in {work}, for the largest model {2 * largest / 1e9:.1f} GB; "
        f"there are {free / 1e9:.1f} GB",
        flush=True,
    )
    if free < need:
        raise SystemExit("Not enough disk: name another folder with --work-dir, or make --scale smaller.")
    if "memory" not in parts or free >= 2 * largest:
        return []
    sizes.pop()
    return [f"memory at {largest / 2e9:.1f} B parameters: {2 * largest / 1e9:.0f} GB of disk are not free"]


def _find_mergekit(python: str | None) -> tuple[str | None, str]:
    """Return an interpreter that has mergekit and its versions, or None and why there is none."""
    try:
        python = python or install_mergekit()
        return python, mergekit_versions(python)
    except (subprocess.CalledProcessError, OSError) as error:
        return None, f"mergekit: it is not there and could not be installed ({error})"


if __name__ == "__main__":
    sys.exit(main())
