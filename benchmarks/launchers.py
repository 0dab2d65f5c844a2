"""Train the same rows under each launcher: ``python -m benchmarks.launchers``; the table is RESULTS-launchers.md.

Two CPU processes (gloo) take the place of two GPUs. accelerate would choose DDP for them whatever is asked for, so it
is told that they are GPUs: what is seen is how rows, losses, weights and checkpoints are shared, not what a GPU does.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", ACCELERATE_USE_CPU="true")
os.environ.update(DS_ACCELERATOR="cpu", DS_BUILD_OPS="0")

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import tiny
from finetuning import distance
from sharded import FSDP2, allow_on_cpus

from benchmarks.processes import exit_codes, start_processes
from benchmarks.results import bullets, machine, table
from taskarith.training.finetune import finetune
from taskarith.training.resume import last_checkpoint, working_folder
from taskarith.training.trainer import ResumableTrainer

_RESULTS = Path(__file__).with_name("RESULTS-launchers.md")
_ROWS, _STEP, _KILLED, _SAVED = 27, 8, 6, 2
_LIMIT = 1e-5
_PATIENCE = 300  # seconds
_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
_ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_GRADIENT_CLIPPING": "1.0"}
_ZERO |= {"ACCELERATE_USE_CPU": "false"}  # accelerate would take DDP
_MODELS = {"llama": "tiny Llama, tied", "moe": "tiny Qwen2-MoE", "phi": "tiny Phi"}
_ABOUT = f"""Two epochs of {_ROWS} rows, {_STEP} a step and fewer in the last, where a process has none; gradients
clipped. *Losses* and *weights* are the largest differences from one process that takes the {_STEP} rows at once, in the
same precision: of the loss of any step, and of any published weight or factor. *Resumed* is the largest difference of
weights between the undisturbed training and one whose processes all ended in step {_KILLED} and that went on from its
checkpoint. *Seconds* are those from the start of the processes, which have imported torch, to the published output.
In bfloat16 other sums are rounded, of which Adam makes steps where a gradient is almost zero. accelerate is told that
CPUs are GPUs; without that it trains with DDP here."""


@dataclass(frozen=True)
class Launcher:
    """A way to train eight rows a step.

    :param name: In the table.
    :param processes: How many train together.
    :param environment: What ``accelerate launch`` would set.
    :param options: Of ``finetune``.
    """

    name: str
    processes: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether what it needs is installed."""
        return _DEEPSPEED or "ACCELERATE_USE_DEEPSPEED" not in self.environment

    @property
    def is_exact(self) -> bool:
        """Whether it is to differ from one process by rounding only: in bfloat16 other sums are rounded."""
        return not self.options.get("bf16")


_WHOLE = Launcher("one process, 8 rows", 1, options={"per_device_train_batch_size": 8})
_PARTS = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
_ZERO3 = _ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
_ENGINES = (
    Launcher("DDP"),
    Launcher("FSDP2", environment=FSDP2),
    Launcher("DeepSpeed ZeRO-2", environment=_ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
    Launcher("DeepSpeed ZeRO-3", environment=_ZERO3),
)
_LAUNCHERS = (
    Launcher("one process, 8 x 1 accumulated", 1, options=_PARTS),
    *_ENGINES,
    Launcher("FSDP2, loaded by the first process", environment=FSDP2 | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}),
    Launcher("FSDP2, bf16", environment=FSDP2, options={"bf16": True}),
    Launcher("FSDP2, CPU offload", environment=FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}),
    Launcher("DeepSpeed ZeRO-3, loaded in parts", environment=_ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}),
)


class DidNotRunError(Exception):
    """A training failed; the message is what was seen."""


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    :param name: In the table.
    :param base: The model's folder.
    :param data: The rows.
    :param options: Of ``finetune``.
    :param launchers: By which it is trained.
    """

    name: str
    base: Path
    data: Path
    options: Mapping[str, Any]
    launchers: Sequence[Launcher]

    def run(self, launcher: Launcher, target: Path, *, ends: bool = False, resume: bool = False) -> float:
        """Train in processes of its own, and return the seconds; the losses are kept beside the output.

        :param ends: All processes end in the middle, after a checkpoint.
        :raises DidNotRunError: They fail.
        """

        def work(rank: int) -> None:
            signal.alarm(_PATIENCE)
            allow_on_cpus()
            if ends:
                _end_in_step(_KILLED)
            options = {"per_device_train_batch_size": _STEP // 2, "bf16": False, "save_steps": _SAVED}
            options |= {"num_train_epochs": 2, "learning_rate": 1e-3, "device": "cpu", "block_size": 128}
            options |= {**self.options, **launcher.options, "resume": resume, "listener": _Strict()}
            result = finetune(str(self.base), [str(self.data)], target, **options)
            if rank == 0:
                _losses_of(target).write_text(json.dumps(result.training_losses), encoding="utf-8")

        with tempfile.TemporaryFile() as said:
            began = time.perf_counter()
            codes = exit_codes(start_processes(launcher.processes, work, said.fileno(), launcher.environment))
            seconds = time.perf_counter() - began
            said.seek(0)
            words = said.read().decode(errors="replace")
        if any(codes) and not (ends and last_checkpoint(working_folder(target))):
            raise DidNotRunError(_reason(words, codes))
        return seconds


class _Strict:
    """Receives updates, and fails where another engine is used than was asked for."""

    def note(self, message: str) -> None:
        """Look what it says."""
        if "is not used" in message:
            raise DidNotRunError(message)

    def progress(self, what: str, done: float, total: float) -> None:
        """Say nothing."""


def _end_in_step(step: int) -> None:
    train: Callable[..., Any] = ResumableTrainer.training_step

    def or_end(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            os._exit(9)
        return train(self, *arguments, **options)

    ResumableTrainer.training_step = or_end  # ty: ignore[invalid-assignment]


def _reason(words: str, codes: list[int]) -> str:
    """Return the last error in the output of processes."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", words, re.MULTILINE)
    return errors[-1].replace("|", "/")[:200] if errors else f"the processes ended with {codes}, and said nothing"


def _losses_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _largest_difference(one: Path, other: Path) -> float:
    """Compare the losses of two trainings step by step."""
    first, second = (dict(json.loads(_losses_of(target).read_text(encoding="utf-8"))) for target in (one, other))
    assert first.keys() == second.keys()  # noqa: S101
    return max(abs(first[step] - second[step]) for step in first)


@dataclass(frozen=True)
class Found:
    """Largest differences, and the seconds of a training."""

    losses: float
    weights: float
    resumed: float
    seconds: float

    def cells(self) -> list[str]:
        """Return the columns of the table."""
        differences = (self.losses, self.weights, self.resumed)
        return [*(f"{number:.1e}" if number else "0" for number in differences), f"{self.seconds:.1f}"]


def compare(training: Training, launcher: Launcher, whole: Path, folder: Path) -> Found:
    """Train with a launcher, and again with an end in between.

    :param whole: The output of one process.
    :param folder: An empty folder.
    :raises DidNotRunError: A training fails.
    """
    seconds = training.run(launcher, folder / "out")
    training.run(launcher, folder / "cut", ends=True)
    training.run(launcher, folder / "cut", resume=True)
    return Found(
        _largest_difference(whole, folder / "out"),
        distance(whole, folder / "out"),
        distance(folder / "out", folder / "cut"),
        seconds,
    )


def measure(training: Training, folder: Path) -> tuple[list[list[str]], bool]:
    """Compare its launchers; return the rows of a table, and whether those that ran are equal where they should be."""
    rows, is_equal, wholes = [], True, {}
    for launcher in training.launchers:
        bf16, work = not launcher.is_exact, folder / "work"
        if bf16 not in wholes:
            wholes[bf16] = folder / f"whole-{bf16}"
            training.run(Launcher("", 1, options={**_WHOLE.options, "bf16": bf16}), wholes[bf16])
        work.mkdir()
        try:
            if not launcher.is_here:
                raise DidNotRunError("deepspeed is not installed")
            found = compare(training, launcher, wholes[bf16], work)
        except DidNotRunError as error:
            cells = [f"did not run: {error}", "", "", ""]
        else:
            cells = found.cells()
            is_equal = is_equal and (not launcher.is_exact or max(found.losses, found.weights, found.resumed) < _LIMIT)
        rows.append([launcher.name, training.name, *cells])
        print(f"{training.base.name} {' '.join(rows[-1])}", flush=True)
        shutil.rmtree(work)
    return rows, is_equal


def _trainings(base: Path, folder: Path, *, is_first: bool) -> list[Training]:
    """Return what is trained: with the first model also what needs the base or earlier weights."""
    data, others = (_write_rows(folder / f"{name}.jsonl", seed) for name, seed in (("rows", 0), ("others", 100)))
    digits = folder / "digits.txt"  # whose loss soon rises
    digits.write_text("".join(str(number**3) for number in range(80)), encoding="utf-8")
    best = {"validation": [str(digits)], "validation_steps": 1, "learning_rate": 2e-2}
    kinds: dict[str, dict[str, Any]] = {"full": {}, "LoRA": {"lora": True}}
    more: dict[str, dict[str, Any]] = {"full, best step": best, "LoRA, best step": best | {"lora": True}}
    for objective, lora in (("kl", False), ("npo", True), ("rmu", False)):
        name = f"{objective}, {'LoRA' if lora else 'full'}"
        more[name] = {"objective": objective, "lora": lora, "retain": [str(others)]}
    made = [Training(name, base, data, options, _LAUNCHERS) for name, options in kinds.items()]
    return made + [Training(name, base, data, options, _ENGINES) for name, options in more.items() if is_first]


def _write_rows(path: Path, seed: int) -> Path:
    texts = (tiny.text(1 + number % 4, seed=seed + number) for number in range(_ROWS))
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return path


def _engines() -> str:
    names = ("accelerate", "transformers", "peft", *["deepspeed"] * _DEEPSPEED)
    return ", ".join(f"{name} {version(name)}" for name in names)


def main() -> int:
    """Parse the command line, run, and write the table; the exit code says whether all that ran was equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launchers", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), default=["llama"], metavar="MODEL")
    parser.add_argument("--table", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if _DEEPSPEED:
        importlib.import_module("deepspeed")
    parts = [
        "# Launchers beside one process",
        "Written by `make launchers`.",
        bullets([*machine("")[:2], _engines()]),
        _ABOUT,
    ]
    is_equal = True
    with tempfile.TemporaryDirectory() as scratch:
        for kind in options.models:
            folder = Path(scratch) / kind
            base, rows = tiny.save_model(folder / kind, kind), []
            for training in _trainings(base, folder, is_first=kind == options.models[0]):
                work = folder / training.name
                work.mkdir()
                made, equal = measure(training, work)
                rows, is_equal = rows + made, is_equal and equal
            parts += [f"## {_MODELS[kind]}", table(["", "trained", "losses", "weights", "resumed", "seconds"], rows)]
    options.table.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return int(not is_equal)


if __name__ == "__main__":
    sys.exit(main())
