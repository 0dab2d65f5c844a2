"""Validation while a model is trained: its loss, early stopping, and the weights of the best step."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from taskarith.checkpoints.team import wait_for_all
from taskarith.errors import TaskarithError
from taskarith.training.callbacks import EvaluationCallback
from taskarith.training.engines import callable_model
from taskarith.training.examples import Collator, Example
from taskarith.training.readings import read_rows
from taskarith.training.result import EVAL_LOSS, best_step, validation_losses
from taskarith.training.resume import check_digests, last_checkpoint, write_digests
from taskarith.training.trained import load_trained, save_trained

__all__ = ["Validation", "load_best"]


class Validation:
    """Held-out rows, and what follows from their loss.

    All that is known of earlier evaluations is the Trainer's log, which is part of each checkpoint: a resumed training
    goes on as an uninterrupted one.

    :param examples: Held-out rows.
    :param pad_id: Token to pad with.
    :param steps: Evaluate every so many steps; None for at the end of each epoch.
    :param patience: End the training after so many evaluations in a row without a lower loss; None for never.
    """

    def __init__(self, examples: Sequence[Example], pad_id: int, steps: int | None, patience: int | None) -> None:
        self._examples = sorted(examples, key=lambda example: -len(example.sample.input_ids))
        self._collate = Collator(pad_id, weighted=False)
        self._steps, self._patience = steps, patience

    def prepare(self, trainer: Trainer) -> None:
        """Let a Trainer evaluate before the first step, every few steps or epochs, and after the last step."""
        trainer.args.eval_on_start = True
        trainer.add_callback(EvaluationCallback(self._steps))

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Measure and log the loss; keep the weights if it is the lowest, or end the training if it has not been.

        :raises TaskarithError: The loss is not finite.
        """
        log, step = trainer.state.log_history, trainer.state.global_step
        if any(EVAL_LOSS in entry and entry["step"] == step for entry in log):  # the training is resumed from here
            return {}
        start = time.perf_counter()
        loss = self._measure(trainer)
        if not math.isfinite(loss):
            raise TaskarithError(
                f"training diverged: the validation loss is {loss} at step {step}; nothing was published",
                "Lower --learning-rate or add --warmup-steps, and check the base with taskarith eval.",
            )
        trainer.log({EVAL_LOSS: loss, "eval_runtime": time.perf_counter() - start})
        if step and best_step(log) == step:
            _keep(trainer)
        elif self._patience is not None and _in_vain(log) >= self._patience:
            trainer.control.should_training_stop = True
            trainer.control.should_save = False  # resuming from here would begin another step
        return {EVAL_LOSS: loss}

    def _measure(self, trainer: Trainer) -> float:
        """Return the mean loss of all learned tokens in nats, as ``eval`` does: float32 losses, summed in float64.

        Processes take batches in turn, in the precision of the training; all of them run the model as often.
        """
        arguments, model = trainer.args, callable_model(trainer)
        rank, size = arguments.process_index, arguments.per_device_train_batch_size
        total = tokens = 0.0
        model.eval()
        with torch.no_grad(), trainer.accelerator.autocast():
            for start in range(0, len(self._examples), arguments.world_size * size):
                rows = self._examples[start + rank * size : start + (rank + 1) * size]
                read = read_rows(model, trainer._prepare_inputs(self._collate(rows or self._examples[-1:])), None)
                if rows:
                    total -= read.log_p.cpu().double().sum().item()
                    tokens += read.learned.sum().item()
        gathered = gather_object([(total, tokens)]) if arguments.world_size > 1 else [(total, tokens)]
        return math.fsum(part for part, _ in gathered) / sum(count for _, count in gathered)


def load_best(trainer: Trainer, state: Mapping[str, torch.Tensor]) -> None:
    """Replace trained weights by those of the best step, unless it is the last one.

    :param state: All weights, named as in ``state_dict``.
    :raises CheckpointError: They were changed after they were written.
    """
    best = best_step(trainer.state.log_history)
    if best not in {None, trainer.state.global_step}:
        folder, model = _folder(trainer, best), trainer.model
        check_digests(folder, "what is kept of the best step in")
        assert model is not None  # noqa: S101
        load_trained(model, folder, state)


def _keep(trainer: Trainer) -> None:
    """Write the trained weights of this step; those of earlier ones go, unless the last checkpoint refers to them."""
    if trainer.control.should_training_stop:
        return  # they are at hand
    state, model = trainer.accelerator.get_state_dict(trainer.model_wrapped), trainer.model
    assert model is not None  # noqa: S101
    if trainer.is_world_process_zero():
        folder = _folder(trainer, trainer.state.global_step)
        shutil.rmtree(folder, ignore_errors=True)
        save_trained(model, folder, state)
        write_digests(folder)
        checkpoint = last_checkpoint(folder.parent)
        step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        known = [entry for entry in trainer.state.log_history if entry["step"] <= step]
        needed = {folder, _folder(trainer, best_step(known))}
        for path in set(folder.parent.glob("best-*")) - needed:
            shutil.rmtree(path)
    wait_for_all()


def _folder(trainer: Trainer, step: int | None) -> Path:
    return Path(str(trainer.args.output_dir)) / f"best-{step}"


def _in_vain(log: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of evaluations after the best one."""
    best = best_step(log) or 0
    return sum(step > best for step, _ in validation_losses(log))
