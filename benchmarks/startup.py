"""`python -m benchmarks.startup`: seconds from call to result of commands on a tiny model; writes RESULTS-startup.md.

Once with an empty cache, as on a fresh machine, and then as ever: medians of several rounds.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from benchmarks.gpu.bench import byte_tokenizer
from benchmarks.measure import as_installed
from benchmarks.models import write_models
from benchmarks.results import bullets, machine, table

_HERE = Path(__file__).resolve().parent
_HIDDEN, _LAYERS, _TOKENS = 128, 2, 512
_ABOUT = """A Phi with {layers} layers of width {hidden}; the process from start to end, its output durable; rounds:
{rounds}.
*Fresh* has neither a cache nor a home: the arithmetic is compiled in the background meanwhile,
and layouts of models are not known. Goals: 3 s fresh; later 0.5 s for what needs no torch, 4 s for the rest. The first
three rows are what the packages take by themselves: Python with a Typer command that does nothing, transformers
loading this model, and the same with its Trainer, which imports PEFT and what PEFT finds."""
_ALONE = {
    "typer alone": (
        "import sys, typer; from rich.console import Console; app = typer.Typer(); app.command()(lambda: None); "
        "sys.argv = ['x']; app()"
    ),
    "transformers alone": "from transformers import AutoModelForCausalLM as M; M.from_pretrained({model!r})",
    "transformers with Trainer": (
        "from transformers import AutoModelForCausalLM as M, Trainer; M.from_pretrained({model!r})"
    ),
}
_WITHOUT_TORCH = ("--help", "apply", "extract", "combine", "undo", "verify", "diff", "inspect", "score", "relate")


def main() -> None:
    """Run all commands, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="with a filled cache")
    parser.add_argument("--output", type=Path, default=_HERE / "RESULTS-startup.md", help="file of the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = _measure(Path(work), options.rounds)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    about = _ABOUT.format(layers=_LAYERS, hidden=_HIDDEN, rounds=options.rounds)
    found = table(["", "fresh, s", "later, s", "needs torch"], rows)
    parts = [f"# Results of `python -m benchmarks.startup`, {today}", bullets(machine("nothing")[:2]), about, found]
    options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts))


def _measure(work: Path, rounds: int) -> list[list[str]]:
    base, tuned = write_models(work / "models", _HIDDEN, 1, _LAYERS, _TOKENS)
    for model in (base, tuned):
        byte_tokenizer().save_pretrained(model)
    for name in ("forget", "retain"):
        (work / f"{name}.txt").write_text(f"{name} what was said by the river and the road. " * 60, encoding="utf-8")
    warm = {"TASKARITH_CACHE": str(work / "warm")}
    code = "from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels; load_kernels(*GROUPS)"
    subprocess.run([sys.executable, "-c", code], env=as_installed() | warm, check=True)
    rows = []
    for name, code in _ALONE.items():
        command = [sys.executable, "-c", code.format(model=str(tuned))]
        alone = [_run(command, work, {}) for _ in range(rounds + 1)][1:]
        rows.append([name, "", f"{median(alone):.2f}", "yes" if "transformers" in name else "no"])
        print(rows[-1], flush=True)
    for name, words in _commands(str(base), str(tuned)).items():
        _seconds(words, work, warm)  # what it needs is read and known
        later = median(_seconds(words, work, warm) for _ in range(rounds))
        fresh = work / f"fresh-{len(rows)}"
        fresh.mkdir()
        first = _seconds(words, work, {"TASKARITH_CACHE": str(fresh / "cache"), "HOME": str(fresh)})
        _end_compiling(fresh)
        rows.append([f"`taskarith {name}`", f"{first:.1f}", f"{later:.2f}", "no" if name in _WITHOUT_TORCH else "yes"])
        print(rows[-1], flush=True)
    return rows


def _commands(base: str, tuned: str) -> dict[str, list[str]]:
    """Return the commands, each of which finds what those before it wrote."""
    texts = ["--data", "forget=forget.txt", "--data", "retain=retain.txt", "--block-size", "64", "--prompts", "0"]
    new = ["--overwrite", "-o"]
    return {
        "--help": ["--help"],
        "extract": ["extract", base, tuned, *new, "v.safetensors"],
        "apply": ["apply", base, "--negate", "v.safetensors", "--alpha", "1.0", "--keep-undo", *new, "edited"],
        "verify": ["verify", "edited"],
        "undo": ["undo", "edited", *new, "restored"],
        "diff": ["diff", base, base],
        "inspect": ["inspect", "v.safetensors"],
        "combine": ["combine", "v.safetensors + v.safetensors", *new, "twice.safetensors"],
        "extract --rank": ["extract", base, tuned, "--rank", "4", *new, "lora"],
        "apply LORA": ["apply", base, "--add", "lora", *new, "with-lora"],
        "relate": ["relate", "v.safetensors", "twice.safetensors"],
        "eval": ["eval", tuned, *texts, *new, "measured"],
        "score": ["score", "measured"],
        "sweep": [
            "sweep",
            tuned,
            "--negate",
            "v.safetensors",
            "--alpha",
            "0,1",
            "--budget",
            "1",
            *texts,
            *new,
            "swept",
        ],
        "finetune": [
            "finetune",
            base,
            "--data",
            "forget.txt",
            "--max-steps",
            "1",
            "--block-size",
            "64",
            *new,
            "learned",
        ],
    }


def _seconds(words: Sequence[str], work: Path, environment: dict[str, str]) -> float:
    return _run([sys.executable, "-m", "taskarith", *words], work, environment)


def _run(command: list[str], work: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=work,
        env=as_installed() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return time.perf_counter() - start


def _end_compiling(cache: Path) -> None:
    """End what a command left to compile for a cache that nobody will use."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("TASKARITH_CACHE", "").startswith(str(cache)):
                process.kill()
        except psutil.Error:
            continue


if __name__ == "__main__":
    main()
