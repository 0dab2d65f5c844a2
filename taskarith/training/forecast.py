"""What a training would take, found out before any weight is loaded: ``finetune --dry-run``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from taskarith.checkpoints.targets import check_space
from taskarith.models.load import empty_model
from taskarith.models.memory import available_memory
from taskarith.progress import SILENT, Listener
from taskarith.training.memory import plan_memory
from taskarith.training.model import check_support, loaded_dtype, trainable
from taskarith.training.prepare import Prepared, nbytes_of_adapter, prepare
from taskarith.training.saving import find_places
from taskarith.training.settings import SETTINGS, TrainingKeywords, TrainingSettings

__all__ = ["TrainingForecast", "forecast_training"]


@dataclass(frozen=True)
class TrainingForecast:
    """What a training would do and take.

    :param output_dir: The folder it would publish.
    :param kind: ``full`` or ``lora``.
    :param device: Where it would run.
    :param samples: Rows and blocks that are trained on.
    :param tokens: Of all of them.
    :param steps: Optimizer steps, at most: it may stop earlier, by ``until_loss`` or ``patience``.
    :param trained: Weights that are trained.
    :param write_bytes: Of the weights of the output, at least.
    :param memory_bytes: By estimate, of all that ``memory`` names; None where the base is quantised.
    :param memory: The same by part.
    :param room_bytes: Memory that there is; None if that is not known.
    """

    output_dir: Path
    kind: str
    device: str
    samples: int
    tokens: int
    steps: int
    trained: int
    write_bytes: int
    memory_bytes: int | None
    memory: dict[str, int]
    room_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "output_dir": str(self.output_dir)}


def forecast_training(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    retain: str | Path | Sequence[str | Path] = (),
    validation: str | Path | Sequence[str | Path] = (),
    overwrite: bool = False,
    settings: TrainingSettings = SETTINGS,
    listener: Listener = SILENT,
    **keywords: Unpack[TrainingKeywords],
) -> TrainingForecast:
    """Check a training and estimate what it takes; nothing is written.

    Parameters are those of ``finetune``, and so are errors, as far as they show without weights: whether rows can be
    packed, and that no prediction depends on a later token, is found by running the model.
    """
    ready = prepare(model, data, output_dir, retain, validation, overwrite, replace(settings, **keywords), listener)
    settings, base = ready.settings, ready.base
    dtype = loaded_dtype(base, settings, ready.arguments)
    empty = empty_model(base.origin.path, dtype, trust_remote_code=settings.trust_remote_code)
    check_support(empty, settings)
    places = {} if settings.lora else find_places(empty, base.checkpoint)
    trained = trainable(empty, settings, places, listener)
    nbytes = max(ready.nbytes, nbytes_of_adapter(trained, settings))
    check_space(ready.target, nbytes)
    room = available_memory(ready.arguments.device)
    plan = plan_memory(trained, settings, ready.arguments, ready.examples, room)
    is_known = not settings.quantised
    if is_known:
        plan.check()
        plan.report(listener)
    return TrainingForecast(
        ready.target,
        settings.kind,
        str(ready.arguments.device),
        len(ready.examples),
        sum(len(example.sample.input_ids) for example in ready.examples),
        _steps(ready),
        plan.trained,
        nbytes,
        plan.total if is_known else None,
        plan.parts if is_known else {},
        room,
    )


def _steps(ready: Prepared) -> int:
    """Return the optimizer steps, counted as transformers' Trainer does."""
    settings, arguments = ready.settings, ready.arguments
    if settings.max_steps is not None:
        return settings.max_steps
    rows = sum(settings.learns or not example.retained for example in ready.examples)
    batches = math.ceil(rows / (settings.per_device_train_batch_size * arguments.world_size))
    return math.ceil(settings.epochs * math.ceil(batches / settings.gradient_accumulation_steps))
