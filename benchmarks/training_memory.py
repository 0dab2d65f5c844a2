"""`python -m benchmarks.training_memory [CASE ...]`: the peak memory of three steps of training, beside its estimate.

Full and LoRA training of the demo's model and of Phi-1.5's shape with random weights. A case that `taskarith finetune`
refuses is shown with what it says. Cases that were measured before stay, so that they can be run one by one. The
process asks the system to be the first that is ended if memory runs out, and ends a case that leaves others too little.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PhiConfig

from benchmarks.measure import Failure, measure
from benchmarks.models import hidden_size, write_models
from benchmarks.results import bullets, machine, table
from taskarith.checkpoints.packaged import demo_model
from taskarith.models.load import open_base
from taskarith.progress import SILENT
from taskarith.training.memory import plan_memory
from taskarith.training.settings import TrainingSettings

COMMAND = "python -m benchmarks.training_memory"
STEPS, LEFT_FOR_OTHERS = 3, 1.5e9
RESULTS = Path(__file__).parent / "RESULTS-training-memory.md"


@dataclass(frozen=True)
class Case:
    """A training to measure.

    :param layers: Of Phi-1.5's shape, which has 24; None for the demo's model.
    :param rows: Rows of a batch.
    :param tokens: Tokens of a row.
    :param options: Further options of `taskarith finetune`.
    """

    layers: int | None
    rows: int
    tokens: int
    options: tuple[str, ...] = ()


CHECKPOINTED, LORA = ("--gradient-checkpointing",), ("--lora",)
CASES = {
    "small-full": Case(None, 2, 128),
    "small-full-checkpointed": Case(None, 2, 128, CHECKPOINTED),
    "small-lora": Case(None, 2, 128, LORA),
    "small-lora-checkpointed": Case(None, 2, 128, LORA + CHECKPOINTED),
    "phi-full": Case(24, 1, 64, CHECKPOINTED),
    "phi-half-full": Case(12, 1, 64, CHECKPOINTED),
    "phi-lora": Case(24, 1, 64, LORA),
    "phi-lora-checkpointed": Case(24, 1, 64, LORA + CHECKPOINTED),
}


@dataclass(frozen=True)
class Found:
    """What a case took, in bytes, or why it was refused.

    :param said: What `taskarith finetune` said of the memory.
    :param anonymous: Peak of the process's own memory.
    :param resident: Peak of all its memory, mapped files among it.
    """

    said: str
    anonymous: int = 0
    resident: int = 0


def write_model(folder: Path, layers: int) -> Path:
    """Write a Phi of Phi-1.5's width with random weights, and the demo's tokenizer."""
    [model] = write_models(folder, hidden_size(1.42e9), 0, layers)
    open_base(str(demo_model()), trust_remote_code=False, listener=SILENT).tokenizer.save_pretrained(model)
    return model


def run(case: Case, folder: Path) -> Found:
    """Train, and return the peak."""
    model = demo_model() if case.layers is None else folder / f"phi-{case.layers}" / "base"
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        write_model(model.parent, case.layers or 0)
    text = folder / "text.txt"
    text.write_text(" ".join(f"{number} words that say {number * 7 % 101}" for number in range(4000)))
    command = [sys.executable, "-m", "taskarith", "finetune", str(model), "--data", str(text), "--device", "cpu"]
    command += ["-o", str(folder / "out"), "--overwrite", "--no-bf16", "--max-steps", str(STEPS), *case.options]
    command += ["--per-device-train-batch-size", str(case.rows), "--block-size", str(case.tokens)]
    log = folder / "log"
    try:
        with guarded():
            taken = measure(command, folder / "out", log, {"OMP_NUM_THREADS": "1"})
    except Failure:
        return Found(" ".join(log.read_text().split("error: ")[-1].split()))
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
    said = re.search(r"memory, by estimate: (.*)", log.read_text())
    return Found(said[1] if said else "", taken.anonymous, taken.resident)


@contextmanager
def guarded() -> Generator[None]:
    """End the children of this process when others have too little memory left."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if psutil.virtual_memory().available < LEFT_FOR_OTHERS:
                for child in psutil.Process().children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def program(folder: Path) -> Found:
    """Return what Python and its libraries take."""
    code = f"import taskarith.training.finetune; open({str(folder / 'out')!r}, 'w').close()"
    taken = measure([sys.executable, "-c", code], folder / "out", folder / "log", {"OMP_NUM_THREADS": "1"})
    (folder / "out").unlink()
    return Found("", taken.anonymous, taken.resident)


def estimate(case: Case) -> str:
    """Say what a full training or a LoRA of Phi-1.5's shape needs, by its shapes alone."""
    config = PhiConfig(
        vocab_size=51200,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=case.layers or 24,
        num_attention_heads=32,
    )
    settings = TrainingSettings(
        per_device_train_batch_size=case.rows,
        lora="--lora" in case.options,
        gradient_checkpointing="--gradient-checkpointing" in case.options,
    )
    example: Any = SimpleNamespace(sample=SimpleNamespace(input_ids=range(case.tokens)))
    arguments: Any = SimpleNamespace(mixed_precision="no", world_size=1)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
        if settings.lora:
            model = get_peft_model(model, LoraConfig(r=settings.lora_rank, target_modules="all-linear"))
    plan = plan_memory(model, settings, arguments, [example] * case.rows, None)
    parts = ", ".join(f"{name} {nbytes / 1e9:.1f}" for name, nbytes in plan.parts.items())
    return f"{plan.total / 1e9:.1f} GB ({parts})"


def report(found: dict[str, Found]) -> str:
    """Return all that was found as Markdown."""
    rows, own = [], found["program"]
    for name, case in CASES.items():
        one = found.get(name) or (Found(f"not run; by shapes {estimate(case)}") if case.layers else None)
        if one is not None:
            model = "SmolLM2-135M" if case.layers is None else f"Phi-1.5's shape, {case.layers} layers"
            kind = "LoRA" if "--lora" in case.options else "full"
            kind += ", checkpointed" * ("--gradient-checkpointing" in case.options)
            peaks = [one.anonymous, one.resident, one.resident - own.resident if one.resident else 0]
            shown = [f"{peak / 1e9:.2f}" if peak else "-" for peak in peaks]
            rows.append([model, kind, f"{case.rows} x {case.tokens}", one.said, *shown])
    heads = [
        "model",
        "training",
        "rows x tokens",
        "said before the first step",
        "anonymous",
        "resident",
        "of training",
    ]
    about = (
        f"Peak memory of {STEPS} steps of `taskarith finetune` in GB (1e9 bytes), float32 on a CPU: *anonymous*\n"
        "without mapped files, *resident* with them, and *of training*, without what Python and its libraries\n"
        f"take ({own.resident / 1e9:.2f} GB). Theory is 16 bytes a trained weight (itself, its gradient, AdamW's two\n"
        "moments) and 4 a frozen one; activations are estimated by shapes."
    )
    today = datetime.now(tz=UTC).date().isoformat()
    facts = machine("nothing")[:2]
    return "\n\n".join([f"# Results of `{COMMAND}`, {today}", bullets(facts), about, table(heads, rows)]) + "\n"


def main() -> None:
    """Measure the cases named on the command line, or all, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--folder", type=Path, default=Path("training-memory"))
    given = parser.parse_args()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    given.folder.mkdir(parents=True, exist_ok=True)
    store = given.folder / "found.json"
    stored = json.loads(store.read_text()) if store.exists() else {}
    stored["program"] = asdict(program(given.folder))
    for name in given.cases or CASES:
        stored[name] = asdict(run(CASES[name], given.folder))
        print(name, stored[name], flush=True)
        store.write_text(json.dumps(stored, indent=2))
    RESULTS.write_text(report({name: Found(**values) for name, values in stored.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
