"""Loading of models for training and measurement, with a check for missing weights."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from taskarith.architecture.ask import check_layers, quietly
from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_model, open_checkpoint
from taskarith.checkpoints.resolve import ResolvedModel, resolve_model
from taskarith.checkpoints.sidecars import check_sidecars
from taskarith.errors import CheckpointError, TaskarithError, UsageError, name_some
from taskarith.models.language import prepare_for_text
from taskarith.progress import Listener

__all__ = [
    "LANGUAGE_MODELS",
    "Base",
    "empty_model",
    "load_config",
    "load_model",
    "load_tokenizer",
    "open_base",
    "positions_of",
    "without_bars",
]

LANGUAGE_MODELS: dict[Any, Any] = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
}
"""What loads language models, likeliest first, and the configurations that it knows."""


@contextlib.contextmanager
def without_bars() -> Generator[None]:
    """Disable transformers' progress bars inside the block."""
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Base:
    """A model to start from: resolved and opened, without weights in memory."""

    origin: ResolvedModel
    checkpoint: Checkpoint
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    @property
    def positions(self) -> int | None:
        """The model's maximum sequence length; None for no limit."""
        return positions_of(self.config)


def positions_of(config: PretrainedConfig) -> int | None:
    """Return the maximum sequence length of a model; None for no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None or limit < 1 else limit  # XLNet has -1 for no limit


def open_base(model: str, *, trust_remote_code: bool, listener: Listener) -> Base:
    """Resolve a model and read everything except its weights.

    :param model: A local folder, ``id`` or ``id@revision`` on the hub, or a GGUF file.
    :param trust_remote_code: Run Python code that comes with the model.
    :param listener: Receives notes on downloads and conversions.
    :raises UsageError: The model has its own code, which is not trusted.
    :raises CheckpointError: It is missing, broken, unknown to transformers, or has no tokenizer.
    """
    origin = resolve_model(model, listener)
    checkpoint = open_checkpoint(origin.path)
    check_sidecars(origin.path, checkpoint.sidecars)
    with _load_errors(origin.path):
        config = AutoConfig.from_pretrained(origin.path, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(origin.path, trust_remote_code=trust_remote_code)
    return Base(origin, checkpoint, config, tokenizer, fingerprint_model(origin.path))


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder.

    :param path: A model or adapter folder.
    :param trust_remote_code: Run Python code that comes with it.
    :raises UsageError: It has its own code, which is not trusted.
    :raises CheckpointError: It is missing or broken.
    """
    with _load_errors(path, "the tokenizer of "):
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError(f"model_max_length cannot be {tokenizer.model_max_length!r}")
        if len(tokenizer) <= len({*tokenizer.all_special_ids}):  # for some types, transformers makes one without files
            raise ValueError("it has no vocabulary; its files may be missing")
    return tokenizer


def load_config(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Load the configuration of a model, and check that it can be a causal language model.

    :param checkpoint: The model's files.
    :param trust_remote_code: Run Python code that comes with the model.
    :raises UsageError: The model has its own code, which is not trusted.
    :raises CheckpointError: It is not a causal language model, or has more layers than its files.
    """
    with _load_errors(checkpoint.path):
        config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
        check_layers(config, checkpoint)
        _auto_classes(checkpoint.path, config)
    return config


def load_model(
    path: Path,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    quantisation: BitsAndBytesConfig | None = None,
    device: torch.device | None = None,
    device_map: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model with all weights from its files and the default generation config.

    A vision-language model is loaded as a whole, and also continues text.

    :param path: A model folder.
    :param dtype: Dtype of the weights in memory.
    :param trust_remote_code: Run Python code that comes with the model.
    :param quantisation: How linear layers are quantised; they are loaded to ``device`` then.
    :param device: Where the model is loaded to; None is the CPU.
    :param device_map: How transformers spreads the model over all GPUs instead.
    :raises UsageError: The model has its own code, which is not trusted.
    :raises CheckpointError: It is not a causal language model, or weights are missing, which would be random, or its
        configuration is that of a much larger one; or the GPUs of a device map cannot hold it.
    """
    checkpoint = open_checkpoint(path)
    config = load_config(checkpoint, trust_remote_code=trust_remote_code)
    options: dict[str, Any] = {"device_map": device_map or (None if device is None else {"": device})}
    if quantisation is not None:
        options["quantization_config"] = quantisation
    with _load_errors(path), without_bars():
        lacking = []
        for auto in _auto_classes(path, config):
            _check_size(auto, checkpoint, trust_remote_code=trust_remote_code)
            model, loading = auto.from_pretrained(
                path, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True, **options
            )
            if not loading["missing_keys"]:
                break
            lacking.append((type(model).__name__, sorted(loading["missing_keys"])))
        else:
            name, missing = lacking[0]
            raise CheckpointError(
                f"{path} lacks {len(missing)} weights of {name}: {name_some(missing)}",
                "Use a complete causal language model; missing weights would be random.",
            )
    if device_map is not None:
        _check_placed(model, path)
    if quantisation is not None:
        _keep_as_quantised(model)
    prepare_for_text(model)
    if model.loss_type is None:  # transformers would fall back to this one, with a warning
        model.loss_type = "ForCausalLM"
    # The base's own file is copied to the output; contradictions in it must not prevent saving a checkpoint.
    model.generation_config = GenerationConfig()
    return model


def _keep_as_quantised(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew when they are first used on a processor with AVX512-BF16.

    That rounds their scales to bfloat16, and fails on layers narrower than a block.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def empty_model(path: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the model that ``load_model`` would load, without weights: on the device ``meta``.

    :param path: A model folder.
    :param dtype: Dtype of the weights.
    :param trust_remote_code: Run Python code that comes with the model.
    :raises UsageError, CheckpointError: As ``load_model`` does, as far as the configuration tells.
    """
    config = load_config(open_checkpoint(path), trust_remote_code=trust_remote_code)
    auto = _auto_classes(path, config)[0]
    with _load_errors(path), quietly(), torch.device("meta"):
        return auto.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def _check_size(auto: Any, checkpoint: Checkpoint, *, trust_remote_code: bool) -> None:
    """Refuse a configuration of a model that its files cannot hold, before memory is taken for it.

    :raises CheckpointError: Not even one bit of each of its weights has room in the files.
    """
    if is_deepspeed_zero3_enabled():
        return  # transformers spreads whatever it builds over the processes
    config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)  # building changes it
    with quietly(), torch.device("meta"):
        weights = sum(one.numel() for one in auto.from_config(config, trust_remote_code=trust_remote_code).parameters())
    if weights > 8 * checkpoint.nbytes:
        raise CheckpointError(
            f"the configuration of {checkpoint.path} describes a model of {weights:,} weights, which do not fit into "
            f"the {checkpoint.nbytes:,} bytes of its files",
            "Restore config.json from the model's source.",
        )


def _check_placed(model: PreTrainedModel, path: Path) -> None:
    """Refuse a model that a device map left partly outside the GPUs, where it could be neither edited nor trained."""
    places = {name: weight.device.type for name, weight in model.named_parameters()}
    if outside := [name for name, place in places.items() if place in {"cpu", "meta"}]:
        raise CheckpointError(
            f"the GPUs cannot hold {path}: {len(outside)} of its {len(places)} weights would be in CPU memory or on "
            f"the disk: {name_some(outside)}",
            "Use --dtype bfloat16, more GPUs, or --device cpu without --device-map.",
        )


def _auto_classes(path: Path, config: PretrainedConfig) -> list[Any]:
    """Return the auto classes that may load the model, likeliest first.

    :raises CheckpointError: It is an encoder-decoder model.
    """
    if config.is_encoder_decoder:
        raise CheckpointError(
            f"{path} is an encoder-decoder model ({', '.join(config.architectures or [config.model_type])})",
            "Use a causal language model: taskarith supports models that continue text.",
        )
    return [auto for auto, mapping in LANGUAGE_MODELS.items() if type(config) in mapping] or [AutoModelForCausalLM]


@contextlib.contextmanager
def _load_errors(path: Path, what: str = "") -> Generator[None]:
    try:
        yield
    except TaskarithError:
        raise
    except Exception as error:  # models and tokenizers raise all kinds of exceptions
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"{path} comes with its own code, which would run on this machine",
                "Read that code; if you trust it, add --trust-remote-code.",
            ) from error
        raise CheckpointError(
            f"transformers cannot load {what}{path}: {reason}",
            "Give a complete causal language model with its tokenizer, as save_pretrained writes them.",
        ) from error
