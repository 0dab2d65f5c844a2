"""Kill trainings at random steps and resume them: ``python -m benchmarks.resumes``; the table is RESULTS-resumes.md.

Each training runs undisturbed once. Then it is started again and again, killed (SIGKILL) at a random moment after a
random step, one process or all of them, and resumed to its end; the weights must be those of the undisturbed run, bit
for bit. Processes are forks of this one, which has imported torch and transformers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", ACCELERATE_USE_CPU="true")

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import tiny

from benchmarks.processes import exit_codes, start_processes
from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.digests import file_digest
from taskarith.checkpoints.packaged import demo_model
from taskarith.training.finetune import finetune
from taskarith.training.resume import last_checkpoint, working_folder

_RESULTS = Path(__file__).with_name("RESULTS-resumes.md")
_STEPS, _SAVED = 12, 3
_LARGE = "135m"
_MODELS = {"phi": "tiny Phi", "llama": "tiny Llama, tied", "moe": "tiny Qwen2-MoE", _LARGE: "SmolLM2 135M"}
_TEXT = "".join(f"The {word} lies {number} steps from the well. " for number in range(14) for word in ("key", "map"))
_WORDS = f"""# Trainings that are killed and resumed

Written by `make resumes`. Trainings of {_STEPS} steps with a checkpoint every {_SAVED} are killed (SIGKILL) up to 0.2 s
after a random step: all processes, or in every other round of two processes one of them. Then the same command runs
with `--resume`, or with `--overwrite` where no checkpoint had been completed, or the output stood already (it must be
whole then). *Equal* are the rounds after which the weights or factors have the bits of an undisturbed run, and nothing
is left beside the output.

| model | trained | processes | kills | resumed at a checkpoint | equal | seconds |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Training:
    """One kind of training.

    :param base: Of all rounds.
    :param data: The text.
    :param lora: Train an adapter.
    :param processes: That train together.
    :param options: More settings.
    """

    base: str
    data: str
    lora: bool
    processes: int
    options: dict[str, Any]

    def run(self, target: Path, kill: tuple[int, float, int] | None = None, **more: Any) -> list[int]:
        """Run it in processes of its own, and return how each ended.

        :param kill: After which step and how many seconds a process is killed, and which; -1 is each.
        """
        with tempfile.TemporaryFile() as said, Path(os.devnull).open("wb") as quiet:

            def work(rank: int) -> None:
                finetune(
                    self.base,
                    [self.data],
                    target,
                    lora=self.lora,
                    device="cpu",
                    save_steps=_SAVED,
                    listener=_Teller(said.fileno() if rank == 0 else -1),
                    **self.options,
                    **more,
                )

            children = start_processes(self.processes, work, quiet.fileno())
            if kill is not None:
                _wait_for(kill[0], said.fileno(), children)
                time.sleep(kill[1])
                for rank, child in enumerate(children):
                    if kill[2] in {-1, rank}:
                        os.kill(child, signal.SIGKILL)
            return exit_codes(children)


class _Teller:
    """Tells the parent process how many steps are done."""

    def __init__(self, file: int) -> None:
        self._file = file

    def note(self, message: str) -> None:
        """Say nothing."""

    def progress(self, what: str, done: float, total: float) -> None:
        """Write one byte a step of the training."""
        if self._file >= 0 and total == _STEPS and what.startswith("training"):
            os.pwrite(self._file, bytes([int(done)]), 0)


def _wait_for(step: int, said: int, children: Sequence[int]) -> None:
    while (os.pread(said, 1, 0) or b"\0")[0] < step:
        if os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def _bits(target: Path, *, lora: bool) -> str:
    return file_digest(target / "adapter_model.safetensors") if lora else fingerprint_model(target)


def measure(training: Training, kills: int, folder: Path, random: Random) -> tuple[Counter[str], float]:
    """Kill and resume a training so many times; return what was counted, and the seconds."""
    began, seen = time.perf_counter(), Counter[str]()
    if any(training.run(folder / "whole")):
        raise RuntimeError(f"the undisturbed training of {training} failed")
    expected = _bits(folder / "whole", lora=training.lora)
    for number in range(kills):
        target = folder / "out"
        victim = random.randrange(training.processes) if training.processes > 1 and number % 2 else -1
        training.run(target, (random.randrange(1, _STEPS), random.uniform(0, 0.2), victim))
        was_whole = not target.exists() or _bits(target, lora=training.lora) == expected
        is_resumed = last_checkpoint(working_folder(target)) is not None and not target.exists()
        seen["resumed"] += is_resumed
        codes = training.run(target, resume=True) if is_resumed else training.run(target, overwrite=True)
        left = {path.name for path in folder.iterdir()} - {"whole", "out", "base", "text.txt"}
        is_equal = was_whole and not any(codes) and _bits(target, lora=training.lora) == expected
        seen["equal"] += is_equal and not left
        if not is_equal or left:
            print(f"round {number}: ended with {codes}, equal: {is_equal}, left: {sorted(left)}", file=sys.stderr)
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(working_folder(target), ignore_errors=True)
    shutil.rmtree(folder / "whole")
    return seen, time.perf_counter() - began


def _trainings(folder: Path, kinds: Sequence[str]) -> dict[tuple[str, str, int], Training]:
    found: dict[tuple[str, str, int], Training] = {}
    data = folder / "text.txt"
    data.write_text(_TEXT, encoding="utf-8")
    options = {"max_steps": _STEPS, "block_size": 32, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
    for kind in kinds:
        name, is_large = _MODELS[kind], kind == _LARGE
        base = str(demo_model() if is_large else tiny.save_model(folder / "base" / kind, kind))
        for lora in (False, True):
            for processes in (1,) if is_large else (1, 2):
                found[name, "LoRA" if lora else "full", processes] = Training(base, str(data), lora, processes, options)
    return found


def main() -> int:
    """Parse the command line, run, and write the table; the exit code says whether all was equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resumes", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each training of a tiny model")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--models", nargs="+", choices=list(_MODELS), default=list(_MODELS), metavar="MODEL")
    parser.add_argument("--table", type=Path, default=_RESULTS)
    options = parser.parse_args()
    rows, is_equal = [], True
    with tempfile.TemporaryDirectory() as scratch:
        for (name, what, processes), training in _trainings(Path(scratch), options.models).items():
            kills = 1 if name == _MODELS[_LARGE] else options.kills
            seen, seconds = measure(training, kills, Path(scratch), Random(options.seed))  # noqa: S311
            cells = (name, what, processes, kills, seen["resumed"], seen["equal"], f"{seconds:.0f}")
            rows.append(f"| {' | '.join(map(str, cells))} |")
            print(rows[-1], flush=True)
            is_equal = is_equal and seen["equal"] == kills
    options.table.write_text("\n".join([_WORDS, *rows, ""]), encoding="utf-8")
    return int(not is_equal)


if __name__ == "__main__":
    sys.exit(main())
