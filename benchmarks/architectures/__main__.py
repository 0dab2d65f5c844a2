"""Take every architecture of the installed transformers through taskarith: ``python -m benchmarks.architectures``."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
import transformers

from benchmarks.architectures.population import population
from benchmarks.architectures.steps import STEPS, Result
from benchmarks.architectures.sweep import read_results, serve, sweep
from benchmarks.architectures.table import SYMBOLS, report

_HERE = Path(__file__).parents[1]


def main() -> None:
    """Parse the command line, run what is not there yet, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, by transformers' names of them")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="steps to take")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument(
        "--output",
        type=Path,
        default=_HERE / ".work/architectures.jsonl",
        help="results as JSON lines; what is there already is not run again",
    )
    parser.add_argument("--table", type=Path, default=_HERE / "RESULTS-architectures.md", help="the table to write")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        serve(options.steps)
        return
    known = population()
    if unknown := set(options.only or ()) - known.keys():
        parser.error(f"unknown architectures: {', '.join(sorted(unknown))}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    done = read_results(options.output)
    names = [name for name in options.only or known if name not in done]
    sweep(names, options.steps, options.jobs, options.output, _tell)
    found = read_results(options.output)
    there = {name: found[name] for name in known if name in found}
    options.table.write_text(report(there, [name for name in known if name not in found]), encoding="utf-8")
    print(f"written: {options.table}")


def _tell(result: Result) -> None:
    kinds = "".join(SYMBOLS[outcome.kind] for outcome in result.steps.values())
    print(f"{result.name:32} {result.unbuilt or kinds}  {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
