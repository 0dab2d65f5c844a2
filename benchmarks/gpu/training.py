"""Fine-tuning on each device: tokens a second, memory, and the share of the device's peak."""

from __future__ import annotations

import re
import shutil
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, Device
from benchmarks.results import table
from taskarith.errors import TaskarithError
from taskarith.training.finetune import finetune

__all__ = ["training"]

_ABOUT = """`taskarith finetune` of {parameters:.3g} B parameters, float32 weights, precision as chosen for the
device: {gpu} on a GPU, {cpu} on a CPU. *Said* is the estimate before the first step, *peak* what
torch took at most, in GB (1e9 bytes); *MFU* is the share of the device's dense bfloat16 peak by its data sheet."""

_KINDS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-5},
    "full, checkpointed": {"learning_rate": 1e-5, "gradient_checkpointing": True},
    "LoRA": {"lora": True},
}


class _Notes:
    """Keeps what is said before a training."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, what: str, done: float, total: float) -> None:
        """Show nothing."""


def training(bench: Bench) -> str:
    """Train, and return a table."""
    model, rows = str(bench.models()[0]), []
    for kind, options in _KINDS.items():
        if bench.has_time(f"finetune, {kind}"):
            rows.append([kind, bench.alone.name, *_train(bench, model, bench.alone, options)])
            print(rows[-1], flush=True)
    shapes = [_shape(name) for name in ("cuda", "cpu")]
    words = [f"{one['per_device_train_batch_size']} rows of {one['block_size']} tokens" for one in shapes]
    about = _ABOUT.format(parameters=bench.parameters / 1e9, gpu=words[0], cpu=words[1])
    heads = ["", "device", "tokens/s", "MFU", "said, GB", "peak, GB", "loss, first and last", "precision"]
    return f"{about}\n\n{table(heads, rows)}"


def _shape(device: str) -> dict[str, int]:
    if device == "cpu":
        return {"per_device_train_batch_size": 1, "block_size": 128, "max_steps": 2}
    return {"per_device_train_batch_size": 8, "block_size": 1024, "max_steps": 8}


def _train(bench: Bench, model: str, device: Device, options: dict[str, Any]) -> list[str]:
    notes, output = _Notes(), bench.work / "trained"
    is_gpu = device.name != "cpu"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    more = options | _shape(device.name) | {"device": device.name, "warmup_steps": 0}
    try:
        found = finetune(model, [str(bench.text)], output, overwrite=True, listener=notes, **more)
    except TaskarithError as error:
        return ["-", "-", "-", "-", "-", f"refused: {error}"]
    finally:
        shutil.rmtree(output, ignore_errors=True)
    said = next((m[1] for note in notes.notes if (m := re.search(r"memory, by estimate: ([\d.]+ [GM]B)", note))), "-")
    peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if is_gpu else "-"
    used = "-" if found.mfu is None else f"{found.mfu:.0%}"
    losses = f"{found.first_loss:.3f}, {found.final_loss:.3f}"
    return [f"{found.tokens_per_second or 0:,.0f}", used, said, peak, losses, found.precision]
