"""The result of a training: its losses, and advice based on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer

from taskarith.tidy import Tabular
from taskarith.training.settings import TrainingSettings
from taskarith.training.throughput import Throughput

__all__ = [
    "DATA_LOSS",
    "EVAL_LOSS",
    "FinetuneResult",
    "best_step",
    "epoch_loss",
    "make_result",
    "remark",
    "validation_losses",
]

DATA_LOSS = "data_loss"
"""Key in the Trainer's log: the loss of the data without retain sets."""

EVAL_LOSS = "eval_loss"
"""Key in the Trainer's log, which trackers know: the loss of the validation data."""

_POINTS = 500
"""Maximum points of a recorded learning curve."""

_FEW_STEPS = 10
_SHORT = 100
"""Maximum steps of a training short enough to be meant to memorise its text."""
_FALL = 2 / 3
"""A text is hardly learned if its loss in the last epoch is more than this share of the first."""

_RISE = 1.1
"""A text whose loss in the last epoch is not more than so many times that in the first is hardly forgotten."""

_KNOWN = 0.7
"""Nats per token: a model that starts with at most this loss has learned the text before."""


@dataclass(frozen=True, repr=False)
class FinetuneResult(Tabular):
    """The result of a fine-tuning.

    :param output_dir: The published folder.
    :param kind: ``full`` (a model) or ``lora`` (a PEFT adapter).
    :param final_loss: Mean training loss over the steps of the last epoch, in nats per token; of the objective's
        value if the data are to be forgotten.
    :param steps: Optimizer steps, including those before a resume.
    :param tokens: Input tokens seen in all epochs, without padding.
    :param seconds: Duration of the training loop of this run.
    :param precision: Dtypes of the computation, and why.
    :param first_loss: Mean loss over the first tenth of the steps; like ``data_loss`` without retain sets if they have
        another weight, ``until_loss`` is set, or the data are to be forgotten: then it is to rise.
    :param data_loss: Mean loss over the steps of the last epoch.
    :param validation_loss: Loss of the validation data with the published weights, in nats per token, if there are any.
    :param best_step: The step of the published weights: where that loss was lowest.
    :param tokens_per_second: Input tokens a second in this run, without padding and without the time of evaluations.
    :param mfu: Model-flops utilisation, where the peak of the device in bfloat16 is known.
    :param training_losses: Steps with the loss of the data, like ``data_loss``; of a long training, means over equal
        numbers of steps, with the last of them.
    :param validation_losses: Evaluated steps with the loss of the validation data; step 0 is the base.
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
    validation_loss: float | None = None
    best_step: int | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    training_losses: Sequence[tuple[int, float]] = ()
    validation_losses: Sequence[tuple[int, float]] = ()

    def _brief(self) -> dict[str, object]:
        names = ("kind", "steps", "first_loss", "final_loss", "validation_loss", "best_step", "seconds")
        given = {name: getattr(self, name) for name in names}
        return {"output_dir": self.output_dir, **{name: value for name, value in given.items() if value is not None}}

    def _rows(self) -> list[dict[str, Any]]:
        """Return the learning curve: every recorded step with its losses."""
        curves = {"training_loss": dict(self.training_losses), "validation_loss": dict(self.validation_losses)}
        steps = sorted({step for curve in curves.values() for step in curve})
        return [{"step": step, **{name: curve.get(step) for name, curve in curves.items()}} for step in steps]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"output_dir": str(self.output_dir)}


def make_result(
    trainer: Trainer, target: Path, kind: str, seconds: float, precision: str, throughput: Throughput
) -> FinetuneResult:
    """Gather the numbers of a finished training."""
    log = trainer.state.log_history
    first, best = _data_losses(log), best_step(log)
    return FinetuneResult(
        output_dir=target,
        kind=kind,
        final_loss=_mean([entry["loss"] for entry in _last_epoch(log)]),
        steps=trainer.state.global_step,
        tokens=int(trainer.state.num_input_tokens_seen),
        seconds=seconds,
        precision=precision,
        first_loss=_mean([loss for _, loss in first[: math.ceil(len(first) / 10)]]),
        data_loss=epoch_loss(log),
        validation_loss=dict(validation_losses(log)).get(best or 0),
        best_step=best,
        tokens_per_second=throughput.tokens_per_second,
        mfu=throughput.mfu,
        training_losses=_thinned(_data_losses(log)),
        validation_losses=validation_losses(log),
    )


def validation_losses(log: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return each evaluated step with the loss of the validation data; step 0 is the base.

    :param log: The Trainer's log.
    """
    return [(entry["step"], entry[EVAL_LOSS]) for entry in log if EVAL_LOSS in entry]


def best_step(log: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the first step after which the loss of the validation data was lowest, or None without validation.

    :param log: The Trainer's log.
    """
    trained = [(step, loss) for step, loss in validation_losses(log) if step]
    return min(trained, key=lambda entry: entry[1])[0] if trained else None


def epoch_loss(log: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean loss of the data over the steps of the last epoch, without retain sets if logged apart.

    :param log: The Trainer's log, with an entry for every step.
    """
    return _mean([loss for _, loss in _data_losses(_last_epoch(log))])


def remark(result: FinetuneResult, settings: TrainingSettings) -> str | None:
    """Return advice if few steps or a small fall of the loss show that the data were hardly learned.

    With ``until_loss``, say instead whether it was reached; and first of all, whether the model knew the data before.
    With an objective of forgetting, say whether the loss of the data hardly rose.
    """
    if not settings.learns:
        return _remark_on_forgetting(result, settings)
    if result.first_loss <= _KNOWN and result.steps <= _SHORT:
        rate = 3e-3 if settings.lora else 3e-4
        return (
            f"the loss was {result.first_loss:.2f} from the start: the model already knows these data. To forget them, "
            "fine-tune its base on them instead, and subtract that vector from this model. Without the base, take "
            f"large steps (--learning-rate {rate:g} --per-device-train-batch-size 1 for a small model) and let "
            "taskarith sweep find alpha, up to 8 or more, at a higher cost to other texts."
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
        f"in {result.steps} steps {fall}: too little to learn a text, or to forget it by its vector. Set "
        f"--until-loss 0.5, with --per-device-train-batch-size 1 for more steps per epoch, "
        f"or a higher --learning-rate ({settings.rate:g})."
    )


def _remark_on_forgetting(result: FinetuneResult, settings: TrainingSettings) -> str | None:
    if result.data_loss > _RISE * result.first_loss:
        return None
    limit = "--num-train-epochs" if settings.max_steps is None else "--max-steps"
    return (
        f"in {result.steps} steps the loss of the data went from {result.first_loss:.2f} to {result.data_loss:.2f}: "
        f"{settings.objective} has hardly made the model forget them. Raise --learning-rate ({settings.rate:g}) "
        f"or {limit}."
    )


def _last_epoch(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    steps = [entry for entry in log if "loss" in entry]
    last = math.ceil(steps[-1]["epoch"]) - 1
    return [entry for entry in steps if entry["epoch"] > last]


def _data_losses(log: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return the steps with the loss of the data; if logged apart, steps with only retain sets have none."""
    key = DATA_LOSS if any(DATA_LOSS in entry for entry in log) else "loss"
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def _thinned(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return means over equal numbers of steps, as few as leave at most _POINTS of them."""
    size = math.ceil(len(losses) / _POINTS)
    groups = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [(group[-1][0], _mean([loss for _, loss in group])) for group in groups]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
