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
from benchmarks.robustness.sections import RESULTS, read_section, write_section

_TITLE = "Files of strangers"
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 a folder of its own is made there
_WORDS = f"""Written by `make fuzz`. Sound files are damaged (bits, types at any key, nesting, huge and negative
numbers, half characters, truncation, links, pipes, devices), and every reader is called with them in process. Where a
command does much beside reading, most cases go through its door alone: the functions that read, check and decode the
damaged file (of vectors every delta). *Whole* are the cases that went through all of the command, one in so many by
their number. Files lie in memory, what runs in threads runs at once, and nothing is flushed to a disk. *Read*
gave a result, *refused* an error of taskarith's own; *odd* is anything else, more than {SECONDS:g} s of the processor
(2 s of GGUF, 5 s of a training that goes on) or {MEGABYTES:g} MB for one case,
or a message that cannot be printed or is longer than {LONGEST_MESSAGE} characters. A case depends on
the seed and its number alone.

| reader | cases | whole | read | refused | odd | slowest, s | most, MB | all, s | seed |
|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and write the table; the exit code says whether anything odd came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS), metavar="READER")
    parser.add_argument("--cases", type=int, default=100_000, help="inputs for each reader")
    parser.add_argument("--start", type=int, default=0, help="number of the first: to repeat one, with --cases 1")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--table", type=Path, default=RESULTS, help="the page to write into")
    options = parser.parse_args(arguments)
    is_odd = False
    for name in options.only:
        scratch = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))
        try:
            tally = fuzz(READERS[name], options.cases, options.seed, scratch, start=options.start)
        finally:
            shutil.rmtree(scratch)
        lines = [_row(tally), *_remarks(tally)]
        print("\n".join(lines), flush=True)
        if not options.start:  # else somebody looks at some cases again
            write_section(options.table, _TITLE, _table(name, lines, read_section(options.table, _TITLE)))
        is_odd = is_odd or bool(tally.odd)
    return int(is_odd)


def _row(tally: Tally) -> str:
    counts = (tally.name, tally.cases, tally.whole, tally.read, tally.refused, sum(tally.odd.values()))
    cells = (*counts, f"{tally.slowest:.2f}", f"{tally.largest:.0f}", f"{tally.seconds:.0f}", tally.seed)
    return f"| {' | '.join(map(str, cells))} |"


def _remarks(tally: Tally) -> list[str]:
    return [
        f"- {tally.name}: {count} times {what}, first in `--only {tally.name} --start {tally.first[what]} --cases 1`"
        for what, count in tally.odd.most_common()
    ]


def _table(name: str, lines: list[str], before: str) -> str:
    """Put the lines of one reader into a table in the place of those that it has there."""
    known = [line for line in before.splitlines() if line.startswith(("| ", "- "))]
    found = {one: [line for line in known if line.startswith((f"| {one} |", f"- {one}:"))] for one in READERS}
    found[name] = lines
    rows = [line for one in found.values() for line in one if line.startswith("|")]
    odd = [line for one in found.values() for line in one if line.startswith("-")]
    return "\n".join([_WORDS, *rows, "", *(odd or ["Nothing odd came out."]), ""])


if __name__ == "__main__":
    raise SystemExit(main())
