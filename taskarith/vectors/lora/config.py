"""The door of ``adapter_config.json``: what is looked at in it is of the type that PEFT gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import ADAPTER_CONFIG, read_json
from taskarith.errors import VectorError
from taskarith.untrusted import MalformedError, check_fields, is_count, is_number

__all__ = ["read_adapter_config"]


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_names(value: object) -> bool:
    return isinstance(value, str) or _are_names(value)


def _is_pattern(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(is_number, value.values()))


_TYPES: dict[str, Callable[[Any], bool]] = {
    "peft_type": lambda value: isinstance(value, str),
    "base_model_name_or_path": lambda value: isinstance(value, str),
    "revision": lambda value: isinstance(value, str),
    "r": is_count,
    "lora_alpha": lambda value: is_number(value) or isinstance(value, float),
    "rank_pattern": _is_pattern,
    "alpha_pattern": _is_pattern,
    "target_modules": _is_names,
    "target_parameters": _are_names,
    "modules_to_save": _are_names,
    "trainable_token_indices": lambda value: isinstance(value, list | Mapping),
}
"""What the values are that are looked at, unless they are null; others are only asked whether they are there."""


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Read the configuration of an adapter.

    :param path: Its folder.
    :raises CheckpointError: It is missing, or not a JSON object.
    :raises VectorError: A value is of another type than PEFT gives it.
    """
    config = read_json(path / ADAPTER_CONFIG)
    try:
        check_fields(config, _TYPES)
    except MalformedError as error:
        raise VectorError(f"{path / ADAPTER_CONFIG}: {error}", "Save the adapter again with PEFT.") from error
    return config
