"""Running a Trainer, and publishing the result."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import Trainer

from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import publish_folder
from taskarith.errors import CheckpointError, OutputError, TaskarithError
from taskarith.models.load import Base
from taskarith.progress import Listener
from taskarith.training.result import FinetuneResult
from taskarith.training.saving import save_adapter, save_model
from taskarith.training.settings import TrainingSettings
from taskarith.vectors.vector import BaseRecord

__all__ = ["publish", "train"]


def train(trainer: Trainer, checkpoint: Path | None) -> float:
    """Train, and return the duration in seconds.

    :param checkpoint: Checkpoint to continue from, or None.
    :raises CheckpointError: The checkpoint cannot be read.
    :raises OutputError: A checkpoint cannot be written.
    :raises TaskarithError: The training diverged, or ran out of memory.
    """
    with _training_errors(Path(str(trainer.args.output_dir))), _checkpoint_errors(trainer, checkpoint):
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return float(output.metrics["train_runtime"])


@contextmanager
def _checkpoint_errors(trainer: Trainer, checkpoint: Path | None) -> Generator[None]:
    """Turn any failure of transformers or torch to read a checkpoint into a ``CheckpointError``."""
    try:
        yield
    except (TaskarithError, OSError, SafetensorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if checkpoint is None or getattr(trainer, "has_begun", True):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"cannot continue from {checkpoint}: {reason}", "Start over with --overwrite.") from error


@contextmanager
def _training_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TaskarithError(
            f"out of memory while training: {str(error).partition('. ')[0]}",
            "Use a smaller --per-device-train-batch-size with more --gradient-accumulation-steps, "
            "--gradient-checkpointing, or --lora.",
        ) from error
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write a checkpoint to {folder}: {error}", "Free some space, or choose an output on another disk."
        ) from error


def publish(
    trainer: Trainer,
    base: Base,
    places: Mapping[str, str | None],
    settings: TrainingSettings,
    result: FinetuneResult,
    record: dict[str, Any],
    *,
    overwrite: bool,
    listener: Listener,
) -> None:
    """Gather the weights from all processes, and write the folder in the first.

    :param places: Source of each tensor of the base, for a fully trained model.
    :param record: Record of the data.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        trained: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        dtype = getattr(torch, settings.dtype)
        origin = BaseRecord(base.origin.recorded_name, base.origin.revision, base.fingerprint)
        numbers = {name: value for name, value in asdict(result).items() if name not in {"output_dir", "kind"}}
        with publish_folder(result.output_dir, overwrite) as folder:
            if isinstance(trained, PeftModel):
                save_adapter(trained, state, base.checkpoint, folder, dtype, base.origin, listener)
            else:
                save_model(trained, state, base.checkpoint, places, folder, dtype)
            logs = (
                Path(str(trainer.args.output_dir)) / "runs"
            )  # TensorBoard's logs, which would be removed with the folder
            if logs.is_dir():
                shutil.copytree(logs, folder / logs.name)
            provenance = {
                "kind": result.kind,
                "base": origin.to_json(),
                **record,
                "arguments": settings.record(),
                **numbers,
            }
            write_provenance(folder, provenance, result.output_dir)
    trainer.accelerator.wait_for_everyone()
