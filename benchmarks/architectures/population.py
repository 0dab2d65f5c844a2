"""The population: every causal architecture of the installed transformers, and others, each built small."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from benchmarks.architectures.recipes import EXTRA, OVERRIDES, SIZES

__all__ = ["build", "population"]

_KINDS = 4
"""A list with one item a layer, and more different ones than this, does not say what kinds of layers there are."""


def population() -> dict[str, str]:
    """Return the model class of each architecture, by transformers' name of its configuration.

    Where a configuration has several models, others than the causal one have their class in the name, too.
    """
    causal = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for name, cls in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.items():
        if name in causal and CONFIG_MAPPING[name].sub_configs:
            causal[name] = cls  # what such checkpoints hold; the causal class takes a part of them
    return causal | {(f"{name}/{cls}" if name in causal else name): cls for name, cls in EXTRA.items()}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a tiny model with random weights.

    :param name: One of ``population``.
    """
    torch.manual_seed(seed)
    cls = getattr(transformers, population()[name])
    kind = CONFIG_MAPPING[name.partition("/")[0]]
    is_like_bert = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and hasattr(kind, "is_decoder")
    return cls(_small(kind, ({"is_decoder": True} if is_like_bert else {}) | OVERRIDES.get(name, {})))


def _fields(cls: type[PreTrainedConfig]) -> list[str]:
    if is_dataclass(cls):
        return [field.name for field in fields(cls)]
    return [name for name in signature(cls).parameters if name != "kwargs"]  # of transformers 5.0


def _small(cls: type[PreTrainedConfig], overrides: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a configuration of a class with every size small.

    :param cls: The class, with defaults for all its fields.
    :param overrides: Fields that are to have other values; those of a nested configuration are a mapping, which may
        name another ``model_type``.
    """
    default = cls()
    own = {name: default.__dict__.get(cls.attribute_map.get(name, name)) for name in _fields(cls)}
    values: dict[str, Any] = {}
    for name, value in own.items():
        if isinstance(value, PreTrainedConfig):
            more = overrides.get(name, {})
            kind = CONFIG_MAPPING[more["model_type"]] if "model_type" in more else type(value)
            values[name] = _small(kind, more)
        elif name in {"bos_token_id", "eos_token_id", "pad_token_id"}:
            values[name] = 1
        elif (size := _size(name, value)) is not None:
            values[name] = size
    if own.get("num_key_value_heads") == own.get("num_attention_heads"):  # without grouped queries
        values |= {"num_key_value_heads": values["num_attention_heads"]} if "num_key_value_heads" in values else {}
    values |= _layers(own, values)
    return cls(
        **values | {key: value for key, value in overrides.items() if key not in {*cls.sub_configs, "model_type"}}
    )


def _size(name: str, value: Any) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    return next((size for pattern, size in SIZES.items() if re.fullmatch(pattern, name)), None)


def _layers(own: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep one layer of each kind, at least two in all, where a configuration lists the kinds of its layers."""
    name = next((n for n in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if n in values), None)
    if name is None:
        return {}
    lists = {
        key: value
        for key, value in own.items()
        if isinstance(value, list) and len(value) == own[name] and len({str(item) for item in value}) <= _KINDS
    }
    if not lists:
        return {}
    first: dict[tuple[str, ...], int] = {}
    for index, kinds in enumerate(zip(*lists.values(), strict=True)):
        first.setdefault(tuple(map(str, kinds)), index)
    chosen = sorted({*first.values(), *((0, 1) if len(first) < 2 else ())})
    return {name: len(chosen)} | {key: [value[index] for index in chosen] for key, value in lists.items()}
