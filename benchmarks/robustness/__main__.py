"""Give every reader damaged files, and write what came out into a table: ``python -m benchmarks.robustness``."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from benchmarks.robustness.readers import READERS
from benchmarks.robustness.runner import LONGEST_MESSAGE, MEGABYTES, SECONDS, Tally, fuzz
from benchmarks.robustness.sections import RESULTS, write_section

_WORDS = f"""Written by `make fuzz`. Sound files are damaged (bits, types at any key, nesting, huge and negative
numbers, half characters, truncation, links, pipes, devices), and every reader is called with them in process. *Read*
gave a result, *refused* an error of taskarith's own; *odd* is anything else, more than {SECONDS:g} s or {MEGABYTES:g}
MB for one case, or a message that cannot be printed or is longer than {LONGEST_MESSAGE} characters. A case depends on
the seed and its number alone.

| reader | cases | read | refused | odd | slowest, s | most, MB | all, s | seed |
|---|---|---|---|---|---|---|---|---|"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and write the table; the exit code says whether anything odd came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS), metavar="READER")
    parser.add_argument("--cases", type=int, default=100_000, help="inputs for each reader")
    parser.add_argument("--start", type=int, default=0, help="number of the first: to repeat one, with --cases 1")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--table", type=Path, default=RESULTS, help="the page to write into")
    options = parser.parse_args(arguments)
    tallies = []
    for name in options.only:
        scratch = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        try:
            tallies.append(fuzz(READERS[name], options.cases, options.seed, scratch, start=options.start))
        finally:
            shutil.rmtree(scratch)
        print(_row(tallies[-1]), flush=True)
        for what, count in tallies[-1].odd.most_common():
            print(f"    {count:6} {what} (case {tallies[-1].first[what]})")
    write_section(options.table, "Files of strangers", _table(tallies))
    return 1 if any(tally.odd for tally in tallies) else 0


def _row(tally: Tally) -> str:
    counts = (tally.name, tally.cases, tally.read, tally.refused, sum(tally.odd.values()))
    cells = (*counts, f"{tally.slowest:.2f}", f"{tally.largest:.0f}", f"{tally.seconds:.0f}", tally.seed)
    return f"| {' | '.join(map(str, cells))} |"


def _table(tallies: list[Tally]) -> str:
    odd = [
        f"- {tally.name}: {count} times {what}, first in `--only {tally.name} --start {tally.first[what]} --cases 1`"
        for tally in tallies
        for what, count in tally.odd.most_common()
    ]
    return "\n".join([_WORDS, *map(_row, tallies), "", *(odd or ["Nothing odd came out."]), ""])


if __name__ == "__main__":
    raise SystemExit(main())
