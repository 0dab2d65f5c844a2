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

from taskarith.cards.card import write_card
from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import publish_folder
from taskarith.checkpoints.team import launched_team, told_of_the_dead
from taskarith.errors import CheckpointError, OutputError, TaskarithError
from taskarith.models.load import Base
from taskarith.models.memory import is_out_of_memory
from taskarith.progress import Listener
from taskarith.training.result import FinetuneResult
from taskarith.training.resume import FINISHED
from taskarith.training.saving import save_adapter, save_model
from taskarith.training.settings import TrainingSettings
from taskarith.training.trainer import ResumableTrainer
from taskarith.training.validation import load_best
from taskarith.vectors.vector import BaseRecord

__all__ = ["publish", "train"]


def train(trainer: ResumableTrainer, checkpoint: Path | None) -> float:
    """Train, and return the duration in seconds.

    :param checkpoint: Checkpoint to continue from, or None.
    :raises CheckpointError: The checkpoint cannot be read.
    :raises OutputError: A checkpoint cannot be written.
    :raises TaskarithError: The training diverged.
    """
    trainer.is_finished = checkpoint is not None and (checkpoint / FINISHED).exists()
    folder = Path(str(trainer.args.output_dir))
    with _training_errors(folder), _checkpoint_errors(trainer, checkpoint), told_of_the_dead():
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return float(output.metrics["train_runtime"])


@contextmanager
def _checkpoint_errors(trainer: Trainer, checkpoint: Path | None) -> Generator[None]:
    """Turn any failure of transformers or torch to read a checkpoint into a ``CheckpointError``."""
    try:
        yield
    except (TaskarithError, OSError, SafetensorError):
        raise
    except Exception as error:
        if checkpoint is None or getattr(trainer, "has_begun", True) or is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"cannot continue from {checkpoint}: {reason}", "Start over with --overwrite.") from error


@contextmanager
def _training_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
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
    """Gather the weights from all processes, and write the folder in the first: those of the best step, if validated.

    If that fails, what was trained stays in the training folder, as a checkpoint.

    :param places: Source of each tensor of the base, for a fully trained model.
    :param record: Record of the data.
    """
    origin = BaseRecord(base.origin.recorded_name, base.origin.revision, base.fingerprint)
    numbers = {name: value for name, value in asdict(result).items() if name not in {"output_dir", "kind"}}
    about = {"kind": result.kind, "base": origin.to_json(), **record, "arguments": settings.record(), **numbers}
    try:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)

        def write() -> None:
            load_best(trainer, state)
            with publish_folder(result.output_dir, overwrite) as folder:
                _save(trainer, state, base, places, folder, getattr(torch, settings.dtype), listener)
                write_card(folder, about, base.checkpoint.path)
                write_provenance(folder, about, result.output_dir)

        launched_team().by_first(write)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, Exception) or trainer.args.world_size == 1:  # of several, others may wait elsewhere
            _keep(trainer, error)
        raise


def _save(
    trainer: Trainer,
    state: Mapping[str, torch.Tensor],
    base: Base,
    places: Mapping[str, str | None],
    folder: Path,
    dtype: torch.dtype,
    listener: Listener,
) -> None:
    """Write the weights, and copy TensorBoard's logs, which would be removed with the training folder."""
    trained: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if isinstance(trained, PeftModel):
        save_adapter(trained, state, base.checkpoint, folder, dtype, base.origin, listener)
    else:
        save_model(trained, state, base.checkpoint, places, folder, dtype)
    logs = Path(str(trainer.args.output_dir)) / "runs"
    if logs.is_dir():
        shutil.copytree(logs, folder / logs.name)


def _keep(trainer: Any, error: BaseException) -> None:
    """Write a checkpoint of the end of a training, so that only publishing is left to a resumed run.

    :param error: Why it was not published; a note says why it is not kept either.
    """
    trainer.is_finished = True
    try:
        trainer._save_checkpoint(trainer.model, None)
    except Exception as second:
        error.add_note(f"What was trained could not be kept: {str(second).partition(chr(10))[0]}")
