"""`make theory`: train the one-layer transformers, measure claims C1 to C4, write the table and the pictures."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from examples.theory.claims import claims, markdown
from examples.theory.data import Setting
from examples.theory.findings import find
from examples.theory.plan import FULL, QUICK
from examples.theory.plots import draw
from examples.theory.results import thresholds_table, write_json


def main() -> int:
    """Run everything; return 1 if a claim does not hold at all."""
    parser = argparse.ArgumentParser(prog="python -m examples.theory", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/theory"), help="folder of the results")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions with other patterns, weights and inputs")
    parser.add_argument("--quick", action="store_true", help="fewer alphas and coarser grids")
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr)

    found = find(QUICK if options.quick else FULL, options.seeds, Setting(), say)
    rows = claims(found)
    options.output.mkdir(parents=True, exist_ok=True)
    draw(found, options.output)
    text = f"{markdown(rows)}\n\n{thresholds_table(found)}\n"
    (options.output / "table.md").write_text(text, encoding="utf-8")
    write_json(found, rows, options.output / "results.json")
    say("done")
    print(text)
    return int(any(row.holds == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
