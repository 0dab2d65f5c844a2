"""What came of a training: its losses, and what they say about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer

from taskarith.training.settings import TrainingSettings

__all__ = ["DATA_LOSS", "FinetuneResult", "epoch_loss", "make_result", "remark"]

DATA_LOSS = "data_loss"
"""Key in the Trainer's log: the loss of the data alone, where there is a retain set."""

_FEW_STEPS = 10
_SHORT = 100
"""Steps of a training that is short enough for its whole text to be learned by heart."""
_FALL = 2 / 3
"""A text whose loss in the last epoch is more than this share of that in the first is hardly learned."""

_KNOWN = 0.7
"""Nats a token: texts that a model predicts as well as that before it is trained on them, it has learned before."""


@dataclass(frozen=True)
class FinetuneResult:
    """What came of a fine-tuning.

    :param output_dir: The published folder.
    :param kind: ``full`` (a model) or ``lora`` (a PEFT adapter).
    :param final_loss: Mean of the training loss over the steps of the last epoch, in nats a token.
    :param steps: Optimizer steps, those before a resume included.
    :param tokens: Input tokens seen in all epochs, padding not counted.
    :param seconds: Duration of the training loop of this process run.
    :param precision: What was computed in which dtype, and why.
    :param first_loss: Mean over the first tenth of the steps. Like ``data_loss``, of the data alone where retain sets
        have another weight, or ``until_loss`` is set.
    :param data_loss: Mean over the steps of the last epoch.
    """

    output_dir: Path
    kind: str
    final_loss: float
    steps: int
    tokens: int
    seconds: float
    precision: str
    first_loss: float
    data_loss: float


def make_result(trainer: Trainer, target: Path, kind: str, seconds: float, precision: str) -> FinetuneResult:
    """Gather the numbers of a training that has ended."""
    log = trainer.state.log_history
    first = _data_losses(log)
    return FinetuneResult(
        output_dir=target,
        kind=kind,
        final_loss=_mean([entry["loss"] for entry in _last_epoch(log)]),
        steps=trainer.state.global_step,
        tokens=int(trainer.state.num_input_tokens_seen),
        seconds=seconds,
        precision=precision,
        first_loss=_mean(first[: math.ceil(len(first) / 10)]),
        data_loss=epoch_loss(log),
    )


def epoch_loss(log: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean loss of the data over the steps of the last epoch; retain sets do not count where told apart.

    :param log: The Trainer's, with an entry for every step.
    """
    return _mean(_data_losses(_last_epoch(log)))


def remark(result: FinetuneResult, settings: TrainingSettings) -> str | None:
    """Say what to set where few steps or a small fall of the loss show that the data were hardly learned.

    Whether ``until_loss`` was reached is said instead, where it is set; before all, that the model knew them.
    """
    if result.first_loss <= _KNOWN and result.steps <= _SHORT:
        rate = 3e-3 if settings.lora else 3e-4
        return (
            f"the loss was {result.first_loss:.2f} from the start: the model knows these data. If they are to be "
            "forgotten, fine-tune its base on them instead, and take that vector from this model. Without the base, "
            f"make large steps (--learning-rate {rate:g} --per-device-train-batch-size 1 for a small model) and let "
            "taskarith sweep find alpha, up to 8 or more; it costs the rest more."
        )
    fall = f"the loss went from {result.first_loss:.2f} to {result.data_loss:.2f}"
    if settings.until_loss is not None:
        if result.data_loss <= settings.until_loss:
            return None
        limit = "--num-train-epochs" if settings.max_steps is None else "--max-steps"
        return (
            f"--until-loss {settings.until_loss:g} was not reached: in {result.steps} steps {fall}. "
            f"Raise {limit}, or --learning-rate ({settings.rate:g})."
        )
    hardly = settings.epochs > 1 and result.steps <= _SHORT and result.data_loss > _FALL * result.first_loss
    if result.steps >= _FEW_STEPS and not hardly:
        return None
    return (
        f"{result.steps} steps, in which {fall}: too little to learn a text, or to forget it by its vector. Set "
        f"--until-loss 0.5, with --per-device-train-batch-size 1 for more steps an epoch, "
        f"or a higher --learning-rate ({settings.rate:g})."
    )


def _last_epoch(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    steps = [entry for entry in log if "loss" in entry]
    last = math.ceil(steps[-1]["epoch"]) - 1
    return [entry for entry in steps if entry["epoch"] > last]


def _data_losses(log: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the losses of the data, step by step; where told apart, a step of nothing but retain sets has none."""
    return [entry[DATA_LOSS] for entry in log if DATA_LOSS in entry] or [e["loss"] for e in log if "loss" in e]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
