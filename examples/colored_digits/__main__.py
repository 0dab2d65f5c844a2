"""`make digits`: run the experiment with several seeds; write tables, a picture and all numbers to a folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from examples.colored_digits.experiment import Plan
from examples.colored_digits.model import Training
from examples.colored_digits.report import draw, tables
from examples.colored_digits.seeds import run_seeds


def main() -> None:
    """Parse the command line, run the seeds, and write what they found."""
    parser = argparse.ArgumentParser(prog="python -m examples.colored_digits", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/digits"), help="folder for the results")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 1 (3)")
    parser.add_argument("--quick", action="store_true", help="little training: to see that all runs")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    plan = _quick(Plan()) if options.quick else Plan()
    options.output.mkdir(parents=True, exist_ok=True)
    results = run_seeds(range(1, options.seeds + 1), plan, options.output)
    record = {"plan": asdict(plan), "results": [asdict(result) for result in results]}
    (options.output / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = tables(results, plan)
    (options.output / "tables.md").write_text(text + "\n", encoding="utf-8")
    draw(results, plan, options.output / "digits.png")
    print(text)


def _quick(plan: Plan) -> Plan:
    def shorter(training: Training) -> Training:
        return replace(training, steps=training.steps // 5)

    return replace(
        plan,
        pretraining=shorter(plan.pretraining),
        finetuning=shorter(plan.finetuning),
        coefficients=plan.coefficients[1::3],
        grid=plan.grid[::3],
    )


if __name__ == "__main__":
    main()
