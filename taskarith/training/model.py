"""The model of a training: loaded, with what is not trained frozen or an adapter added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments, set_seed

from taskarith.errors import UsageError, name_some
from taskarith.models.language import can_run, names_outside
from taskarith.models.load import Base, load_model
from taskarith.progress import Listener
from taskarith.training.hidden_states import freeze_all_but, layer_names
from taskarith.training.lora import add_lora
from taskarith.training.memory import MemoryWatch
from taskarith.training.packing import check_packing
from taskarith.training.quantised import check_replaced, quantisation
from taskarith.training.settings import TrainingSettings

__all__ = ["check_support", "load_base", "loaded_dtype", "trainable"]


def load_base(
    base: Base, settings: TrainingSettings, arguments: TrainingArguments, memory: MemoryWatch, listener: Listener
) -> PreTrainedModel:
    """Return the model to train, on the CPU unless it is quantised.

    :raises TaskarithError: Its weights are larger than the memory.
    :raises UsageError: It does not support a setting.
    """
    dtype = loaded_dtype(base, settings, arguments)
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
    check_support(model, settings)
    if settings.packing and (can_run(model) or arguments.process_index == 0):  # with FSDP only the first has weights
        check_packing(model, settings.per_device_train_batch_size * settings.block_size)
    return model


def loaded_dtype(base: Base, settings: TrainingSettings, arguments: TrainingArguments) -> torch.dtype:
    """Return the dtype of the weights in memory: float32, but of a frozen base in bfloat16 its own under autocast."""
    frozen_16_bit = settings.lora and arguments.mixed_precision == "bf16" and base.config.dtype == torch.bfloat16
    return torch.bfloat16 if frozen_16_bit else torch.float32


def check_support(model: PreTrainedModel, settings: TrainingSettings) -> None:
    """Refuse a setting that a model does not support, as far as its class tells.

    :raises UsageError: It is gradient checkpointing.
    """
    if settings.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UsageError(
            f"{type(model).__name__} does not support gradient checkpointing", "Leave out --gradient-checkpointing."
        )


def trainable(
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
