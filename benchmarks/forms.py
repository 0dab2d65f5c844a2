"""`python -m benchmarks.forms`: the demo's forget vector in every form: its size, what it keeps, what it still forgets.

Needs the output of `make demo`. Each form is extracted from the fine-tune of the forgotten text, taken away from the
model that was tuned on all texts, and that model is evaluated in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TEXTS = {"forgotten": "saga_1.txt", "aligned": "saga_2.txt", "irrelevant": "manual.txt"}
FORMS = {
    "float32": [],
    "exact": ["--exact"],
    **{f"top-k {share:.0%}": ["--top-k", str(share)] for share in (0.01, 0.05, 0.1, 0.2)},
    **{f"rank {rank}": ["--rank", str(rank)] for rank in (1, 4, 16, 64)},
    **{f"{bits} bits": ["--bits", str(bits)] for bits in (8, 4, 1)},
}
DARE = "DARE, density 10 %"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="output of taskarith demo")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, DARE], default=[*FORMS, DARE], help="only these")
    options = parser.parse_args()
    record = json.loads((options.demo / "tuned" / "taskarith.json").read_text(encoding="utf-8"))
    base = str(record["base"]["name"])
    with TemporaryDirectory(dir=options.demo.resolve().parent, prefix="forms-") as work:
        for line in _table(options.demo, base, Path(work), options.forms):
            print(line, flush=True)


def _table(demo: Path, base: str, work: Path, forms: Sequence[str]) -> Iterator[str]:
    tuned, vector, learned = demo / "tuned", demo / "unlearned" / "forget.safetensors", work / "learned"
    _taskarith("apply", base, "--add", vector, "-o", learned)
    yield "| form | MB | bits a weight | energy kept | forgotten | aligned | irrelevant | forgetting kept |"
    yield "|---|---:|---:|---:|---|---|---|---:|"
    before = _scores(demo, tuned)
    yield f"| (nothing taken away) | | | | {_cells(before)} | |"
    weights, whole = 0, 0.0
    for form in forms:
        found: dict[str, Any] = {}
        if form == DARE:
            edited = work / "dare"
            options = ("--method", "dare_linear", "--density", "0.1")
            _taskarith("apply", tuned, "--negate", vector, *options, "-o", edited)
            scores = _scores(demo, edited)
        else:
            place = work / (form.replace(" ", "-").replace("%", "") + ("" if "rank" in form else ".safetensors"))
            found = _taskarith("extract", base, learned, *FORMS[form], "-o", place)
            scores = _scores(demo, tuned, "--negate", place, "--alpha", "1")
        size = found.get("nbytes", 0)
        weights = found.get("elements", 0) if form == "float32" else weights
        change = scores["forgotten"]["loss"]["value"] - before["forgotten"]["loss"]["value"]
        whole = change if form == "float32" else whole
        bits = f"{8 * size / weights:.2f}" if size and weights else ""
        energy = found.get("energy") or (found.get("loss") or {}).get("energy")
        kept = f"{energy:.1%}" if energy is not None else ""
        share = f"{change / whole:.0%}" if whole else ""
        yield f"| {form} | {size / 1e6:,.1f} | {bits} | {kept} | {_cells(scores)} | {share} |"


def _cells(scores: dict[str, Any]) -> str:
    return " | ".join(
        f"{scores[text]['loss']['value']:.2f} / {scores[text]['rouge_l_f1']['value']:.2f}" for text in TEXTS
    )


def _scores(demo: Path, model: Path, *edit: object) -> dict[str, Any]:
    data = [part for name, file in TEXTS.items() for part in ("--data", f"{name}={demo / 'texts' / file}")]
    length = ["--prompts", "16", "--prompt-tokens", "32", "--continuation-tokens", "32", "--block-size", "272"]
    found = _taskarith("eval", model, *edit, *data, *length)
    return next(iter(found["scores"].values()))


def _taskarith(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "taskarith", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
