"""The model to train: loaded in the right precision, checked for missing weights, wrapped in LoRA where asked for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

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

from taskarith.errors import CheckpointError, UsageError, name_some
from taskarith.progress import Listener
from taskarith.training.settings import Settings

__all__ = ["add_lora", "check_block_size", "load_config", "load_model", "load_tokenizer", "without_bars"]


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars, and leave its setting as it was."""
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


def load_config(path: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Read the configuration of a model folder.

    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: transformers does not know this kind of model.
    """
    with _load_errors(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder.

    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: There is no tokenizer, or it cannot be read.
    """
    with _load_errors(path):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def check_block_size(config: PretrainedConfig, block_size: int, name: str) -> None:
    """Refuse blocks that are longer than the model has positions.

    :raises UsageError: They are.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and block_size > limit:
        raise UsageError(f"--block-size {block_size} is more than the {limit} positions of {name}", f"Use at most {limit}.")


def load_model(path: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model with every weight taken from its files.

    :param path: A model folder.
    :param dtype: Of the weights in memory.
    :param trust_remote_code: Run the code that comes with the model.
    :raises UsageError: The model brings its own code, which is not trusted.
    :raises CheckpointError: It is no causal language model, or its files lack weights, which would be random numbers.
    """
    with _load_errors(path), without_bars():
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} weights of {type(model).__name__}: {name_some(missing)}",
            "Use a complete causal language model; missing weights would be random numbers.",
        )
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
        listener.note(f"LoRA does not reach {len(fused)} tensors that hold several matrices each: {name_some(fused, 1)}")
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
def _load_errors(path: Path) -> Iterator[None]:
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
