"""What FSDP and DeepSpeed have to be told, so that they train float32 weights, and all of them can be published."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from taskarith.checkpoints.checkpoint import read_json
from taskarith.errors import CheckpointError, UsageError
from taskarith.progress import Listener
from taskarith.training.dealing import idle_processes

__all__ = ["adapt_engine", "callable_model", "engine_errors", "rounds_loss", "told_bf16"]

_CONFIG_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"


def told_bf16(*, bf16: bool) -> bool:
    """Return whether to tell transformers of bfloat16: DeepSpeed would train weights that are rounded to it.

    It is to calculate under torch's autocast instead: see ``adapt_engine``.

    :raises UsageError: Its configuration asks for weights in 16 bits, or it has no autocast.
    """
    if not parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return bf16
    path = os.environ.get(_CONFIG_FILE, "none")
    config = {} if path == "none" else _read_config(Path(path))
    for dtype in ("bf16", "fp16"):
        part = config.get(dtype)
        if isinstance(part, dict) and part.get("enabled") is True:
            raise UsageError(
                f"{path} turns on {dtype}: DeepSpeed would round the weights that it trains",
                f'Set "{dtype}": {{"enabled": false}} there; --bf16 calculates in bfloat16, with float32 weights.',
            )
    if bf16 and not _has_autocast():
        raise UsageError(
            "this DeepSpeed calculates in bfloat16 with rounded weights only",
            "Install deepspeed 0.17 or newer, or give --no-bf16.",
        )
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    return False


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except CheckpointError as error:
        raise UsageError(error.message, "Give accelerate a DeepSpeed configuration in JSON.") from error


def _has_autocast() -> bool:
    return bool(importlib.util.find_spec("deepspeed") and importlib.util.find_spec("deepspeed.runtime.torch_autocast"))


def adapt_engine(trainer: Any, listener: Listener, *, bf16: bool) -> None:
    """Let DeepSpeed calculate under autocast, and gather its weights.

    Say where accelerate uses neither it nor FSDP, and which processes have nothing to do.

    :param trainer: A ``Trainer`` that has not begun.
    :param bf16: Calculate in bfloat16.
    :raises UsageError: The weights are spread for DeepSpeed, and DeepSpeed is not used.
    """
    asked = "DeepSpeed" if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") else ""
    asked = "FSDP" if parse_flag_from_env("ACCELERATE_USE_FSDP") else asked
    if asked and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        if is_deepspeed_zero3_enabled():
            raise UsageError(
                "transformers has spread the weights for DeepSpeed ZeRO-3, with which accelerate does not train here",
                "On a CPU start the processes without DeepSpeed: accelerate trains with DDP.",
            )
        listener.note(f"{asked} is not used: accelerate trains with DDP on a CPU, and in one process without either")
    rows, size, processes = len(trainer.train_dataset), trainer.args.train_batch_size, trainer.args.world_size
    if idle := idle_processes(rows, size, processes):
        listener.note(f"{idle} of {processes} processes never have a row: there are {rows}, in batches of {size}")
    if not trainer.is_deepspeed_enabled:
        return
    config = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
    if config["zero_optimization"]["stage"] == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True  # of any dtype
    config["torch_autocast"] = {"enabled": bf16, "dtype": "bfloat16"}
    trainer.args.mixed_precision = "bf16" if bf16 else "no"


def rounds_loss(arguments: TrainingArguments) -> bool:
    """Return whether FSDP rounds what a model returns, also a loss: it is to be calculated from the logits instead."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and arguments.mixed_precision != "no"


def callable_model(trainer: Any) -> Any:
    """Return what a process may call to run the model as it is, apart from a step of the training.

    Where its weights are spread over processes, they are gathered in between: all processes call it equally often.

    :param trainer: A ``Trainer`` that has begun.
    """
    return trainer.model_wrapped if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled else trainer.model


@contextmanager
def engine_errors() -> Generator[None]:
    """Turn contradictions between DeepSpeed's configuration and the options into a ``UsageError``."""
    try:
        yield
    except ValueError as error:
        if "DeepSpeed config" not in str(error):
            raise
        lines = str(error).splitlines()
        raise UsageError(
            f"DeepSpeed's configuration contradicts the options: {'; '.join(lines[1:-1])}",
            'Set these values to "auto" there, or give options that agree.',
        ) from error
