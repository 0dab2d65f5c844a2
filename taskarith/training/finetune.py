"""The verb `finetune`: train a base model on data, and write a model or adapter folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from taskarith.checkpoints.targets import check_space
from taskarith.models.device import describe_precision
from taskarith.progress import SILENT, Listener
from taskarith.training.callbacks import measured_throughput
from taskarith.training.engines import adapt_engine, engine_errors
from taskarith.training.fit import publish, train
from taskarith.training.hidden_states import steered_layer
from taskarith.training.memory import plan_memory, watch_memory
from taskarith.training.model import load_base, trainable
from taskarith.training.prepare import nbytes_of_adapter, prepare
from taskarith.training.result import FinetuneResult, make_result, remark
from taskarith.training.resume import training_folder
from taskarith.training.saving import find_places
from taskarith.training.settings import SETTINGS, TrainingKeywords, TrainingSettings
from taskarith.training.trainer import make_trainer
from taskarith.training.unlearning import make_unlearner

__all__ = ["FinetuneResult", "finetune"]


def finetune(
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
) -> FinetuneResult:
    """Train a causal language model, or a LoRA adapter for it, on texts; publish a folder that transformers can load.

    Trained weights are float32. On a given machine the same call gives the same weights. Under ``accelerate launch``
    every process makes this call, and the first publishes.

    :param model: A local folder, ``id`` or ``id@revision`` on the hub, or a GGUF file.
    :param data: Data sets as for ``load_data``; several are joined.
    :param output_dir: Folder to publish; checkpoints of the run are stored beside it until then.
    :param retain: Data sets to mix in with the retain weight; an epoch includes them. With an objective of
        forgetting, data sets to keep: a row of them is drawn for each row of ``data``.
    :param validation: Data sets to validate on: the weights of the step with the lowest loss of theirs are published.
    :param overwrite: Replace an existing output, and drop checkpoints of an interrupted run.
    :param settings: Training settings.
    :param listener: Receives progress updates and notes on choices.
    :param keywords: Fields of ``settings`` by name, such as ``learning_rate=1e-4``.
    :raises UsageError: A value or a combination is invalid, or the model does not support it.
    :raises DataError: A data set is missing, empty or of an unknown shape.
    :raises CheckpointError: The model is missing, broken or of an unknown kind.
    :raises MismatchError: Tokenizer and model, or a checkpoint to resume and this call, do not fit.
    :raises OutputError: The output exists, or cannot be written.
    :raises TaskarithError: The training diverged, or ran out of memory.
    """
    ready = prepare(model, data, output_dir, retain, validation, overwrite, replace(settings, **keywords), listener)
    settings, arguments, base, target = ready.settings, ready.arguments, ready.base, ready.target
    pad_id = base.tokenizer.pad_token_id or 0  # padding is masked
    run = {**settings.record(), "base": base.fingerprint, **ready.record}
    with (
        training_folder(target, arguments, run, resume=settings.resume) as checkpoint,
        watch_memory(arguments.device) as memory,
    ):
        loaded = load_base(base, settings, arguments, memory, listener)
        layer = steered_layer(loaded, settings)
        places = {} if settings.lora else find_places(loaded, base.checkpoint)
        trained = trainable(loaded, settings, places, listener)
        check_space(target, max(ready.nbytes, nbytes_of_adapter(trained, settings)))
        memory.expect(plan_memory(trained, settings, arguments, ready.examples, memory.room))
        with engine_errors():
            if settings.learns:
                trainer = make_trainer(trained, arguments, ready.examples, pad_id, settings, listener, ready.held_out)
            else:
                trainer = make_unlearner(
                    trained,
                    arguments,
                    ready.examples,
                    pad_id,
                    settings,
                    layer,
                    listener,
                    resumed=checkpoint is not None,
                )
        adapt_engine(trainer, listener, bf16=ready.autocast)
        precision = describe_precision(trained, arguments.mixed_precision, ready.reason)
        listener.note(f"training {settings.kind} on {arguments.device}: {precision}")
        memory.report(listener)
        seconds = train(trainer, checkpoint)
        result = make_result(trainer, target, settings.kind, seconds, precision, measured_throughput(trainer))
        publish(trainer, base, places, settings, result, ready.record, overwrite=overwrite, listener=listener)
    if advice := remark(result, settings):
        listener.note(advice)
    return result
