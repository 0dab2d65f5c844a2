"""Callbacks that report the progress of a training, tell its epochs, and end it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from taskarith.errors import TaskarithError
from taskarith.progress import Listener
from taskarith.training.result import EVAL_LOSS, epoch_loss
from taskarith.training.throughput import Throughput, describe_speed

__all__ = [
    "BeginCallback",
    "EpochCallback",
    "EvaluationCallback",
    "ProgressCallback",
    "UntilLossCallback",
    "measured_throughput",
]


class ProgressCallback(TrainerCallback):
    """Reports loss and speed to the listener, and stops a training that diverges.

    :param name: What the loss is called.
    :param peak_share: See ``throughput.peak_share``.
    """

    def __init__(self, listener: Listener, name: str = "loss", peak_share: float | None = None) -> None:
        self._listener, self._name, self._peak_share = listener, name, peak_share
        self.throughput = Throughput()
        self._start = 0.0
        self._tokens_before = 0
        self._validation = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Note the start time."""
        del args, control, more
        self._start, self._tokens_before = time.perf_counter(), int(state.num_input_tokens_seen)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **more: Any,
    ) -> None:
        """Report a step's loss, or fail if it is not finite."""
        del args, control, more
        logs = logs or {}
        if EVAL_LOSS in logs:
            self._validation = f" | validation {logs[EVAL_LOSS]:.2f}"
            self._start += logs["eval_runtime"]  # no time of training
        loss = logs.get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise TaskarithError(
                f"training diverged: the loss is {loss} at step {state.global_step}; nothing was published",
                "Lower --learning-rate or add --warmup-steps, and check the base with taskarith eval.",
            )
        speed = (state.num_input_tokens_seen - self._tokens_before) / (time.perf_counter() - self._start)
        self.throughput = Throughput(speed, None if self._peak_share is None else speed * self._peak_share)
        if state.is_world_process_zero:
            status = f"training | {self._name} {loss:.2f}{self._validation} | {describe_speed(self.throughput)}"
            self._listener.progress(status, state.global_step, state.max_steps)


class UntilLossCallback(TrainerCallback):
    """Ends a training after the first epoch whose mean loss of the data is at most ``loss``.

    :param loss: In nats per token.
    """

    def __init__(self, loss: float) -> None:
        self._loss = loss

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Check the mean loss at the end of an epoch."""
        del args, more
        if state.epoch and state.epoch == int(state.epoch) and epoch_loss(state.log_history) <= self._loss:
            control.should_training_stop = True
            control.should_save = False  # resuming from here would begin another epoch


def measured_throughput(trainer: Trainer) -> Throughput:
    """Return how fast a training was, its evaluations not counted."""
    callbacks = trainer.callback_handler.callbacks
    return next((each.throughput for each in callbacks if isinstance(each, ProgressCallback)), Throughput())


class EvaluationCallback(TrainerCallback):
    """Asks for an evaluation every few steps or at the end of each epoch, and after the last step.

    It comes with the step, before its checkpoint is saved, and not after the epoch: a training that is resumed from
    that checkpoint would miss it.

    :param steps: None for epochs.
    """

    def __init__(self, steps: int | None) -> None:
        self._steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Decide whether it is time."""
        del args, more
        is_end = state.epoch == int(state.epoch or 0) if self._steps is None else state.global_step % self._steps == 0
        control.should_evaluate = is_end or state.global_step >= state.max_steps


class EpochCallback(TrainerCallback):
    """Tells what draws rows which epoch begins, the one in which a run is resumed included.

    :param begin: Receives the number of the epoch, from 0.
    """

    def __init__(self, begin: Callable[[int], None]) -> None:
        self._begin = begin

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Tell this epoch."""
        del args, control, more
        self._begin(int(state.epoch or 0))


class BeginCallback(TrainerCallback):
    """Does something before the first step, when all processes have their share of the weights.

    :param act: What is to be done.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Do it."""
        del args, state, control, more
        self._act()
