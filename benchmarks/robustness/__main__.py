"""Give every reader damaged files, and write what came out into a table: ``python -m benchmarks.robustness``."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from benchmarks.robustness.readers import READERS
from benchmarks.robustness.runner import fuzz

_HERE = Path(__file__).parents[1]


def main() -> int:
    """Parse the command line, run, and write the table; the exit code says whether anything odd came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS), metavar="READER")
    parser.add_argument("--cases", type=int, default=100_000, help="inputs for each reader")
    parser.add_argument("--start", type=int, default=0, help="number of the first: to repeat one, with --cases 1")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    odd = 0
    for name in options.only:
        scratch = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        try:
            tally = fuzz(READERS[name], options.cases, options.seed, scratch, start=options.start)
        finally:
            shutil.rmtree(scratch)
        print(
            f"{name}: {tally.cases} cases, {tally.read} read, {tally.refused} refused, "
            f"{sum(tally.odd.values())} odd, {tally.slowest:.2f} s, {tally.largest:.0f} MB, {tally.seconds:.0f} s"
        )
        for what, count in tally.odd.most_common():
            print(f"    {count:6} {what} (case {tally.first[what]})")
        odd += sum(tally.odd.values())
    return 1 if odd else 0


if __name__ == "__main__":
    raise SystemExit(main())
