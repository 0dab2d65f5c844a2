"""The decoder layers of a model: which one RMU steers, what it returns, and which weights may move."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from taskarith.errors import UsageError
from taskarith.models.layers import layer_list
from taskarith.training.settings import TrainingSettings

__all__ = ["capture", "freeze_all_but", "layer_names", "steered_layer", "with_layer"]

_DEPTH = 7 / 32
"""The layer that Li et al. (2024) steer in Zephyr-7B, and of how many."""

_BEFORE = 2
"""How many layers before it they train, too."""

_HINT = "Choose an objective that needs no hidden states, such as npo."


def with_layer(settings: TrainingSettings, config: PretrainedConfig, name: str) -> TrainingSettings:
    """Return the settings with the layer that RMU steers filled in.

    :param settings: Of any objective.
    :param config: The model's.
    :param name: The model's, for errors.
    :raises UsageError: The model does not have that layer, or does not tell how many there are.
    """
    if settings.objective != "rmu":
        return settings
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not depth:
        raise UsageError(f"rmu cannot reach the hidden states of {name}: its config names no decoder layers", _HINT)
    layer = round(depth * _DEPTH) if settings.rmu_layer is None else settings.rmu_layer
    if layer >= depth:
        raise UsageError(
            f"--rmu-layer {layer} is out of range: {name} has {depth} decoder layers",
            f"Name one from 0 to {depth - 1}; without the option it is {round(depth * _DEPTH)}.",
        )
    return replace(settings, rmu_layer=layer)


def layer_names(model: PreTrainedModel, settings: TrainingSettings) -> list[str]:
    """Return the names of the modules that RMU trains: the layer that it steers, which is the last, and two before.

    :raises UsageError: The model's decoder is not a list of layers.
    """
    layers = layer_list(model)
    if layers is None:
        raise UsageError(
            f"rmu cannot reach the hidden states of {type(model).__name__}: its decoder is not one list of layers",
            _HINT,
        )
    last = settings.rmu_layer or 0
    return [f"{layers}.{number}" for number in range(max(last - _BEFORE, 0), last + 1)]


def steered_layer(model: PreTrainedModel, settings: TrainingSettings) -> torch.nn.Module | None:
    """Return the decoder layer whose hidden states RMU steers; None for other objectives."""
    return model.get_submodule(layer_names(model, settings)[-1]) if settings.objective == "rmu" else None


def freeze_all_but(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Freeze all parameters outside of some modules."""
    kept = {id(parameter) for name in names for parameter in model.get_submodule(name).parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


@contextmanager
def capture(layer: torch.nn.Module | None) -> Generator[list[torch.Tensor]]:
    """Collect the hidden states that a layer returns, of shape (rows, tokens, size).

    What follows gets them without their gradient: what RMU minimises does not depend on it. Several processes find
    what they have to share from the outputs, which then keep it.

    :param layer: Where it is None, nothing is collected.
    """
    states: list[torch.Tensor] = []
    is_alone = not torch.distributed.is_initialized()

    def keep(module: torch.nn.Module, given: Any, returned: Any) -> Any:
        del module, given
        first, *rest = returned if isinstance(returned, tuple) else (returned,)
        states.append(first)
        passed = first.detach() if is_alone else first
        return (passed, *rest) if isinstance(returned, tuple) else passed

    handle = layer.register_forward_hook(keep) if layer is not None else None
    try:
        yield states
    finally:
        if handle is not None:
            handle.remove()
