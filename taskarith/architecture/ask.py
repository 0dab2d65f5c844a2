"""The architecture of a model folder by transformers: its class is built without weights and matched with the files."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import redirect_stderr
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from taskarith.architecture.layout import Architecture, Parameter, Piece
from taskarith.architecture.trace import trace
from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.errors import CheckpointError

__all__ = ["build_model", "describe_model", "model_classes", "quietly", "without_messages"]

AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModel")
"""Classes used to load models and train adapters, likeliest first."""


def model_classes(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the classes a folder may be loaded as, each with its ``Auto...`` class, likeliest first."""
    config = _config(checkpoint)
    classes: dict[str, str] = {}
    named = [str(name) for name in checkpoint.config.get("architectures") or () if hasattr(transformers, str(name))]
    for auto in AUTO_CLASSES:
        mapping = getattr(transformers, auto)._model_mapping
        for cls in (mapping[type(config)],) if type(config) in mapping else ():
            for member in cls if isinstance(cls, tuple) else (cls,):
                classes.setdefault(member.__name__, auto)
    for name in named:
        classes.setdefault(name, "AutoModel")
    return {name: classes[name] for name in sorted(classes, key=lambda name: name not in named)}


def build_model(checkpoint: Checkpoint, model_class: str) -> PreTrainedModel:
    """Build a model of a class on the meta device, without weights.

    :raises Exception: Whatever the class raises.
    """
    cls, config = getattr(transformers, model_class), _config(checkpoint)
    text = config.get_text_config()
    if not isinstance(config, cls.config_class) and isinstance(text, cls.config_class):
        config = text  # as the auto classes do: the language model of a vision-language model
    with quietly(), torch.device("meta"):
        return cls._from_config(config)


def describe_model(checkpoint: Checkpoint, model_class: str, auto_class: str) -> Architecture:
    """Match the tensors of a folder with the parameters of a class, as loading would.

    :raises Exception: Whatever transformers raises.
    """
    model = build_model(checkpoint, model_class)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {name: torch.empty(entry.shape, device="meta") for name, entry in checkpoint.tensors.items()}
    conversions: Any = copy.deepcopy(get_model_conversion_mapping(model))
    for conversion in conversions:
        if getattr(conversion, "force_cpu", False):
            conversion.force_cpu = False  # meant for huge weights; here there are none
    options = LoadStateDictConfig(device_map={"": "meta"}, weight_mapping=conversions, ignore_mismatched_sizes=True)
    with quietly():
        loading, _ = convert_and_load_state_dict_in_model(model, state, options)
        if loading.mismatched_keys:
            name, stored_shape, shape = sorted(loading.mismatched_keys)[0]
            raise ValueError(f"config.json says {list(shape)} for {name}, which is stored as {list(stored_shape)}")
        loaded = {name: shape for name, shape in shapes.items() if name not in loading.missing_keys}
        saved = trace(model, loaded)
    stored = dict(_as_stored(saved, checkpoint, model.base_model_prefix))
    modules = dict(model.named_modules())
    parameters = {name: _parameter(modules[name.rpartition(".")[0]], shape) for name, shape in shapes.items()}
    ties = {name: to for name, to in model.all_tied_weights_keys.items() if name in shapes and to in shapes}
    return Architecture(model_class, auto_class, parameters, stored, ties, _roles(model))


def _config(checkpoint: Checkpoint) -> PretrainedConfig:
    with quietly():
        config: Any = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # names and shapes are those before quantisation
    check_layers(config, checkpoint)
    return config


def check_layers(config: PretrainedConfig, checkpoint: Checkpoint) -> None:
    """Refuse a configuration with more layers than the files have tensors, which could take forever to build.

    :raises CheckpointError: There are more layers than tensors.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if type(layers) is int and layers > len(checkpoint.tensors):
        raise CheckpointError(
            f"the configuration of {checkpoint.path} has {layers} layers, but its files have only "
            f"{len(checkpoint.tensors)} tensors",
            "Restore config.json from the model's source.",
        )


def _as_stored(
    saved: Mapping[str, tuple[Piece, ...]], checkpoint: Checkpoint, prefix: str
) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """Yield the tensors of the files, in order; names may lack or repeat the model's prefix."""
    for name, entry in checkpoint.tensors.items():
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        pieces = next((saved[spelling] for spelling in spellings if spelling in saved), None)
        if pieces is not None and (not pieces or pieces[-1].stop == _rows(entry.shape)):
            yield name, pieces


def _rows(shape: tuple[int, ...]) -> int:
    return shape[-2] if len(shape) in (2, 3) else shape[0] if shape else 1


def _parameter(module: torch.nn.Module, shape: tuple[int, ...]) -> Parameter:
    if isinstance(module, torch.nn.Linear | Conv1D) and _is_plain(module):
        return Parameter(shape, "linear", isinstance(module, Conv1D))
    if isinstance(module, torch.nn.Embedding):
        return Parameter(shape, "embedding", False)
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return Parameter(shape, "convolution")
    kind = "norm" if "norm" in type(module).__name__.lower() else "other"
    return Parameter(shape, kind, len(shape) == 3 and bool(getattr(module, "is_transposed", False)))  # as PEFT decides


def _is_plain(module: torch.nn.Linear | Conv1D) -> bool:
    """Tell whether a linear layer returns a single tensor; routers may return several."""
    if type(module).forward in {torch.nn.Linear.forward, Conv1D.forward}:
        return True
    width = module.nx if isinstance(module, Conv1D) else module.in_features
    try:
        return isinstance(module(torch.empty(2, width, device="meta")), torch.Tensor)
    except Exception:  # it expects other inputs
        return False


def _roles(model: PreTrainedModel) -> dict[str, str]:
    """Return the weight names of the input embedding and the output layer, if the class provides them."""
    roles = {}
    names = {id(module): name for name, module in model.named_modules()}
    for role, get in (("embedding", model.get_input_embeddings), ("head", model.get_output_embeddings)):
        try:
            module = get()
        except (NotImplementedError, AttributeError):  # not every class has them
            continue
        if module is not None and id(module) in names and hasattr(module, "weight"):
            roles[role] = f"{names[id(module)]}.weight"
    return roles


@contextlib.contextmanager
def without_messages() -> Generator[None]:
    """Silence transformers' progress bars and log inside the block."""
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """Keep transformers from telling in any way what concerns weights that are not there."""
    with without_messages(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
