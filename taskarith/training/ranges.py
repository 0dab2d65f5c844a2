"""The range of each number among the settings of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from taskarith.errors import UsageError

__all__ = ["check_ranges"]

_Range = tuple[Callable[[float], bool], str]
_POSITIVE: _Range = (lambda value: value > 0, "a number above 0")
_AT_LEAST_ZERO: _Range = (lambda value: value >= 0, "0 or more")
_COUNT: _Range = (lambda value: value >= 1, "1 or more")

_RANGES: dict[str, _Range] = {
    "block_size": (lambda value: value >= 2, "2 tokens or more"),
    "stride": (lambda value: value >= 1 and value == int(value), "a number of tokens, from 1 to --block-size"),
    "learning_rate": _POSITIVE,
    "num_train_epochs": _POSITIVE,
    "max_steps": _COUNT,
    "until_loss": (lambda value: value > 0, "a loss above 0, in nats per token, as in --until-loss 0.5"),
    "per_device_train_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "warmup_steps": (
        lambda value: 0 <= value < 1 or (value >= 1 and value == int(value)),
        "a share of all steps from 0 to 1, or a whole number of steps",
    ),
    "weight_decay": _AT_LEAST_ZERO,
    "max_grad_norm": (lambda value: value >= 0, "0 (no clipping) or more"),
    "lora_rank": _COUNT,
    "lora_alpha": _POSITIVE,
    "retain_weight": _AT_LEAST_ZERO,
    "beta": _POSITIVE,
    "rmu_layer": (lambda value: value >= 0 and value == int(value), "the number of a decoder layer, the first is 0"),
    "rmu_steering": _POSITIVE,
    "validation_share": (lambda value: 0 < value < 1, "a share of the data between 0 and 1, as in 0.1"),
    "validation_steps": _COUNT,
    "patience": _COUNT,
    "seed": (lambda value: 0 <= value < 2**32, "between 0 and 4294967295"),
    "save_steps": _COUNT,
}


def check_ranges(values: Mapping[str, Any]) -> None:
    """Check the numbers among settings; those that are None were not given.

    :param values: Settings by name.
    :raises UsageError: A number is out of its range.
    """
    for name, (fits, wanted) in _RANGES.items():
        value = values[name]
        if value is not None and not (math.isfinite(value) and fits(value)):
            raise UsageError(f"--{name.replace('_', '-')} is {value}", f"It must be {wanted}.")
