"""``adapter_config.json``: types as PEFT gives them, no kind that is not a change of weights, patterns of modules."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taskarith.checkpoints.checkpoint import ADAPTER_CONFIG, read_json
from taskarith.errors import VectorError
from taskarith.untrusted import MalformedError, check_fields, is_count, is_number

__all__ = ["MERGE", "by_pattern", "check_config", "matches", "read_adapter_config"]

MERGE = "Merge it with PEFT and use the merged model folder."
"""The way out where an adapter cannot be used."""

_OTHERS = {
    "layer_replication": "layers that are repeated (layer_replication)",
    "use_qalora": "QA-LoRA, which pools its inputs",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA, which changes the base",
    "arrow_config": "a router between adapters (Arrow)",
    "alora_invocation_tokens": "activation by tokens (aLoRA): it applies to a part of the text only",
    "monteclora_config": "MonteCLoRA",
}
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that subtract the first factors from the base: the adapter then fits that changed base only."""


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


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that is not a LoRA, or of a kind that is not a change of weights.

    :raises VectorError: It is one.
    """
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise VectorError(f"{path} is a {kind} adapter, not LoRA", MERGE)
    for key, what in _OTHERS.items():
        if config.get(key):
            raise VectorError(f"{path} has {what}", MERGE)
    if (layout := config.get("lora_B_layout")) not in (None, "rank_major"):  # unsloth says how lora_B is packed
        raise VectorError(
            f"{path} packs the factors of experts in another way than PEFT (lora_B_layout: {layout})",
            "Convert it to PEFT's packing, rank_major, with the tool that wrote it: PEFT would mix up the experts.",
        )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGING):
        raise VectorError(
            f"{path} was initialised with {start}, which changes the base: its factors are not a difference to it",
            "Save it as plain LoRA: PEFT's save_pretrained(path_initial_model_for_weight_conversion=...).",
        )


def by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that a module's name ends with, as PEFT reads them."""
    return next((value for pattern, value in (patterns or {}).items() if matches(pattern, module)), default)


def matches(pattern: str, module: str) -> bool:
    """Tell whether a pattern fits a module, as PEFT reads it.

    :raises VectorError: It is not a regular expression.
    """
    return _compiled(pattern).fullmatch(module) is not None


@functools.lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # such as of "[[", which may mean a set of sets one day
            return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        raise VectorError(f"pattern '{pattern}' of the adapter is not a regular expression", "Correct it.") from error
