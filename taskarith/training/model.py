"""The model to train: loaded in the right precision, checked for missing weights, wrapped in LoRA where asked for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_model, open_checkpoint
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.errors import CheckpointError, UsageError, name_some
from taskarith.progress import Listener
from taskarith.training.settings import Settings

__all__ = ["Base", "add_lora", "load_model", "open_base", "without_bars"]


@contextlib.contextmanager
def without_bars() -> Generator[None]:
    """Keep transformers from drawing progress bars, and leave its setting as it was."""
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Base:
    """The model to start from, found and opened, but without its weights in memory."""

    origin: ResolvedModel
    checkpoint: Checkpoint
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str


def open_base(model: str, *, trust_remote_code: bool, listener: Listener) -> Base:
    """Find a model and read all of it but its weights.

    :param model: A local folder, ``id`` or ``id@revision`` on the hub, or GGUF.
    :param trust_remote_code: Run the code that comes with the model.
    :param listener: Told about downloads and conversions.
    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: It is missing, broken, or of a kind that transformers does not know; or has no tokenizer.
    """
    origin = resolve_model(model, listener)
    checkpoint = open_checkpoint(origin.path)
    with _load_errors(origin.path):
        config = AutoConfig.from_pretrained(origin.path, trust_remote_code=trust_remote_code)
        tokenizer: Any = AutoTokenizer.from_pretrained(origin.path, trust_remote_code=trust_remote_code)
    return Base(origin, checkpoint, config, tokenizer, fingerprint_model(origin.path))


def load_model(path: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model with every weight taken from its files, and with the default generation config.

    :param path: A model folder.
    :param dtype: Of the weights in memory.
    :param trust_remote_code: Run the code that comes with the model.
    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: It is no causal language model, or its files lack weights, which would be random numbers.
    """
    with _load_errors(path), without_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}: {name_some(missing)}",
            "Use a complete causal language model; missing weights would be random numbers.",
        )
    if model.loss_type is None:  # transformers falls back to this one for a few models, and warns
        model.loss_type = "ForCausalLM"
    # The base's own file is copied to the output; a contradiction in it must not stop the saving of a checkpoint.
    model.generation_config = GenerationConfig()
    return model


def add_lora(model: PreTrainedModel, settings: Settings, listener: Listener) -> PeftModel:
    """Put trainable low-rank factors beside linear layers and freeze the rest.

    :raises UsageError: A target names no linear layer, or the output layer where it is tied to the embeddings.
    """
    layers = _linear_layers(model)
    targets: str | list[str] = "all-linear"
    if settings.lora_target:
        targets = list(settings.lora_target)
        unknown = [name for name in targets if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
        if unknown:
            raise _unknown_targets(unknown, layers)
    fused = [name for name, parameter in model.named_parameters() if parameter.dim() > 2]
    if fused:
        listener.note(
            f"LoRA does not reach {len(fused)} tensors that hold several matrices each: {name_some(fused, 1)}"
        )
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.alpha,  # ty: ignore[invalid-argument-type]  (PEFT divides it by r: any number will do)
        target_modules=targets,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        task_type=TaskType.CAUSAL_LM,
    )
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        try:
            adapted = get_peft_model(model, config)
        except ValueError as error:
            raise _unknown_targets(list(settings.lora_target), layers) from error
    for remark in remarks:
        if not issubclass(remark.category, FutureWarning | DeprecationWarning):
            listener.note(f"PEFT: {remark.message}")
    assert isinstance(adapted, PeftModel)  # noqa: S101  (a mixed model only if asked for)
    return adapted


def _linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Return the layers that LoRA can be put beside: all linear ones but a head tied to the embeddings."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head if head is not None and head.weight is embeddings.weight else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not tied
    }


def _unknown_targets(unknown: list[str], layers: dict[str, torch.nn.Module]) -> UsageError:
    names = sorted({name.rpartition(".")[2] for name in layers})
    return UsageError(
        f"--lora-target {', '.join(unknown)}: the model has no such linear layers", f"It has {', '.join(names)}."
    )


@contextlib.contextmanager
def _load_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{path} brings its own code, which would run on this machine",
                "Read that code; if you trust it, add --trust-remote-code.",
            ) from error
        raise CheckpointError(
            f"transformers cannot load {path}: {reason}",
            "Give a complete causal language model with its tokenizer, as save_pretrained writes them.",
        ) from error
