"""The verb `finetune`: train a base model on data, and write a model or adapter folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations

from taskarith.calls import listed
from taskarith.checkpoints.header import ITEM_SIZES
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.rooms import settle
from taskarith.checkpoints.targets import check_apart, check_space, is_occupied
from taskarith.checkpoints.team import check_launch
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.errors import OutputError, UsageError, name_some
from taskarith.models.device import autocast_choice, describe_precision, training_device
from taskarith.models.language import can_run, names_outside
from taskarith.models.load import Base, load_model, open_base
from taskarith.progress import SILENT, Listener
from taskarith.training.callbacks import measured_throughput
from taskarith.training.engines import adapt_engine, engine_errors
from taskarith.training.examples import make_examples
from taskarith.training.fit import publish, train
from taskarith.training.hidden_states import freeze_all_but, layer_names, steered_layer, with_layer
from taskarith.training.holdout import check_validation, hold_out
from taskarith.training.lora import add_lora
from taskarith.training.memory import MemoryWatch, plan_memory, watch_memory
from taskarith.training.objective_table import check_retain
from taskarith.training.packing import check_packing
from taskarith.training.quantised import check_quantised, check_replaced, quantisation
from taskarith.training.result import FinetuneResult, make_result, remark
from taskarith.training.resume import check_leftover, training_folder, working_folder
from taskarith.training.saving import find_places
from taskarith.training.settings import SETTINGS, TrainingKeywords, TrainingSettings
from taskarith.training.trainer import make_arguments, make_trainer
from taskarith.training.unlearning import check_reference, make_unlearner

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
    settings = replace(settings, **keywords)
    model, data, retain, validation = str(model), listed(data), listed(retain), listed(validation)
    target = Path(output_dir)
    check_launch()
    check_validation(settings, validation)
    _check_call(settings, data, retain)
    inputs = [model, *data_paths([*data, *retain, *validation])]
    _check_output(target, settings, overwrite, inputs)
    check_leftover(target, resume=settings.resume, overwrite=overwrite, listener=listener)
    device = training_device(settings.device)
    autocast, reason = autocast_choice(device, settings.bf16)
    arguments = make_arguments(settings, working_folder(target), device, bf16=autocast)
    check_quantised(settings, arguments)
    form = settings.form
    learned, retained, held = ([load_data(spec, form) for spec in specs] for specs in (data, retain, validation))
    check_form(form, [*learned, *retained, *held])
    with arguments.main_process_first(local=False, desc="finding the model"):
        base = open_base(model, trust_remote_code=settings.trust_remote_code, listener=listener)
        check_apart(target, [base.origin.path])
        settings = with_layer(settings, base.config, base.origin.name)
        nbytes = 0 if settings.lora else _nbytes(base, settings.dtype)
        check_space(target, nbytes)
    pad_id = base.tokenizer.pad_token_id or 0  # padding is masked
    examples, record = make_examples(base, learned, retained, settings, listener)
    examples, held_out = hold_out(base, held, examples, settings, record, listener)
    check_reference(examples, settings, arguments, base, target, nbytes)
    record["processes"] = arguments.world_size
    run = {**settings.record(), "base": base.fingerprint, **record}
    with (
        training_folder(target, arguments, run, resume=settings.resume) as checkpoint,
        watch_memory(arguments.device) as memory,
    ):
        loaded = _load(base, settings, arguments, memory, listener)
        layer = steered_layer(loaded, settings)
        places = {} if settings.lora else find_places(loaded, base.checkpoint)
        trained = _trainable(loaded, settings, places, listener)
        check_space(target, max(nbytes, _nbytes_of_adapter(trained, settings)))
        memory.expect(plan_memory(trained, settings, arguments, examples, memory.room))
        with engine_errors():
            if settings.learns:
                trainer = make_trainer(trained, arguments, examples, pad_id, settings, listener, held_out)
            else:
                trainer = make_unlearner(
                    trained, arguments, examples, pad_id, settings, layer, listener, resumed=checkpoint is not None
                )
        adapt_engine(trainer, listener, bf16=autocast)
        precision = describe_precision(trained, arguments.mixed_precision, reason)
        listener.note(f"training {settings.kind} on {arguments.device}: {precision}")
        memory.report(listener)
        seconds = train(trainer, checkpoint)
        result = make_result(trainer, target, settings.kind, seconds, precision, measured_throughput(trainer))
        publish(trainer, base, places, settings, result, record, overwrite=overwrite, listener=listener)
    if advice := remark(result, settings):
        listener.note(advice)
    return result


def _nbytes(base: Base, dtype: str) -> int:
    """Return the minimum bytes of a fully trained model; tensors that are not floats keep their size."""
    size = int(getattr(torch, dtype).itemsize)
    return sum(entry.elements * min(size, ITEM_SIZES[entry.dtype]) for entry in base.checkpoint.tensors.values())


def _nbytes_of_adapter(model: PreTrainedModel | PeftModel, settings: TrainingSettings) -> int:
    """Return the bytes of an adapter's factors on disk, and 0 without one."""
    factors = sum(weight.numel() for weight in model.parameters() if weight.requires_grad) if settings.lora else 0
    return factors * getattr(torch, settings.dtype).itemsize


def _check_call(settings: TrainingSettings, data: Sequence[str], retain: Sequence[str]) -> None:
    if not data:
        raise UsageError("there is no data to train on", "Give a data set: --data forget.txt")
    check_retain(settings.objective, bool(retain))
    if settings.retain_weight != 1.0 and not retain:
        raise UsageError("--retain-weight is set, but there is no retain set", "Give one with --retain FILE.")
    known = get_available_reporting_integrations()
    for name in settings.report_to:
        if name not in known:
            raise UsageError(
                f"--report-to {name} is not available here",
                f"Install its package; available: {', '.join(known) or 'none'}.",
            )


def _check_output(target: Path, settings: TrainingSettings, overwrite: bool, inputs: Sequence[str]) -> None:
    if settings.resume and not overwrite and is_occupied(settle(target)):
        raise OutputError(
            f"{target} already exists, so there is nothing to resume",
            "An output has its name when it is complete. If this one is older than the run, give --overwrite, too.",
        )
    check_target(target, overwrite, is_folder=True, inputs=inputs)


def _load(
    base: Base, settings: TrainingSettings, arguments: TrainingArguments, memory: MemoryWatch, listener: Listener
) -> PreTrainedModel:
    frozen_16_bit = settings.lora and arguments.mixed_precision == "bf16" and base.config.dtype == torch.bfloat16
    dtype = torch.bfloat16 if frozen_16_bit else torch.float32
    if not settings.quantised:
        elements = sum(entry.elements for entry in base.checkpoint.tensors.values())
        memory.check_weights(elements * dtype.itemsize, base.origin.name)
    set_seed(settings.seed)
    model = load_model(
        base.origin.path,
        dtype,
        trust_remote_code=settings.trust_remote_code,
        quantisation=quantisation(settings, torch.bfloat16 if arguments.mixed_precision == "bf16" else torch.float32),
        device=arguments.device if settings.quantised else None,
    )
    if settings.quantised:
        check_replaced(model)
        listener.note(
            f"the base is in {settings.quantised[0]} bits while the adapter is trained; the adapter is a vector of "
            f"{base.origin.name} as it is stored, not quantised"
        )
    if settings.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UsageError(
            f"{type(model).__name__} does not support gradient checkpointing", "Leave out --gradient-checkpointing."
        )
    if settings.packing and (can_run(model) or arguments.process_index == 0):  # with FSDP only the first has weights
        check_packing(model, settings.per_device_train_batch_size * settings.block_size)
    return model


def _trainable(
    model: PreTrainedModel, settings: TrainingSettings, places: Mapping[str, str | None], listener: Listener
) -> PreTrainedModel | PeftModel:
    """Return the model with an adapter, or itself, and all frozen that is not to be trained."""
    within = layer_names(model, settings) if settings.objective == "rmu" else None
    if settings.lora:
        return add_lora(model, settings, listener, within)
    _freeze_rest(model, places, listener)
    if within is not None:
        listener.note(f"rmu steers {within[-1]} and trains {name_some(within)}")
        freeze_all_but(model, within)
    return model


def _freeze_rest(model: PreTrainedModel, places: Mapping[str, str | None], listener: Listener) -> None:
    """Freeze the parameters that text does not reach, and note what stays unchanged."""
    outside = names_outside(model)
    for name in outside:
        model.get_parameter(name).requires_grad_(False)
    if outside:
        listener.note(f"{len(outside)} weights outside the language model are not trained: {name_some(outside, 3)}")
    copied = [name for name, source in places.items() if source is None]
    if copied:
        listener.note(f"{len(copied)} tensors are not part of the trained model and are copied: {name_some(copied, 3)}")
