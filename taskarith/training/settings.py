"""How to train: every choice of a fine-tuning run, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from taskarith.errors import UsageError

__all__ = ["DTYPES", "EPOCHS", "LORA_RANK", "MOST_EPOCHS", "SCHEDULERS", "Settings"]

SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""The schedules of transformers that need no further arguments."""

DTYPES = ("float32", "bfloat16", "float16")

LORA_RANK = 16
"""The default rank."""

EPOCHS = 3.0
"""The default number of passes over the data."""

MOST_EPOCHS = 30.0
"""The default limit of a training that goes on until a loss is reached."""

_FULL_LEARNING_RATE = 5e-5  # transformers' default
_LORA_LEARNING_RATE = 5e-4  # adapters start at zero and need about ten times as much


@dataclass(frozen=True)
class Settings:
    """The choices that make the trained weights, and those about the run; names are transformers' and PEFT's.

    ``learning_rate``, ``lora_alpha`` and ``num_train_epochs`` may be None: see ``rate``, ``alpha`` and ``epochs``.
    ``warmup_steps`` below 1 is a share of all steps. ``bf16`` None chooses by device. ``max_steps`` None trains
    ``epochs``. ``until_loss`` ends the training after the first epoch whose mean loss is at most that.

    :raises UsageError: A value is out of its range or unknown, or two contradict each other.
    """

    block_size: int
    learning_rate: float | None
    num_train_epochs: float | None
    max_steps: int | None
    until_loss: float | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    max_grad_norm: float
    bf16: bool | None
    dtype: str
    lora: bool
    lora_rank: int
    lora_alpha: float | None
    lora_target: tuple[str, ...]
    retain_weight: float
    seed: int
    device: str
    save_steps: int | None
    resume: bool
    report_to: tuple[str, ...]
    trust_remote_code: bool

    def __post_init__(self) -> None:
        for name, (fits, wanted) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise UsageError(f"{_option(name)} is {value}", f"It must be {wanted}.")
        for name, known in (("lr_scheduler_type", SCHEDULERS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {_option(name)} '{getattr(self, name)}'", f"Choose one of {', '.join(known)}."
                )
        if not self.lora and (self.lora_target or self.lora_alpha is not None or self.lora_rank != LORA_RANK):
            raise UsageError("a LoRA option is set, but not --lora", "Add --lora, or take the option out.")

    @property
    def kind(self) -> str:
        """What is trained: ``full`` or ``lora``."""
        return "lora" if self.lora else "full"

    @property
    def rate(self) -> float:
        """The peak learning rate: as given, else 5e-5, or 5e-4 for LoRA."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _LORA_LEARNING_RATE if self.lora else _FULL_LEARNING_RATE

    @property
    def epochs(self) -> float:
        """Passes over the data: as given, else 3, or at most 30 until a loss is reached."""
        if self.num_train_epochs is not None:
            return self.num_train_epochs
        return EPOCHS if self.until_loss is None else MOST_EPOCHS

    @property
    def alpha(self) -> float:
        """LoRA's alpha: as given, else twice the rank, so that its product is scaled by 2."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    def record(self) -> dict[str, object]:
        """Return the choices that make the trained weights, with all defaults filled in."""
        about_run = {"device", "save_steps", "resume", "report_to", "trust_remote_code"}
        about_lora = set() if self.lora else {"lora_rank", "lora_alpha", "lora_target"}
        kept = {name: value for name, value in vars(self).items() if name not in about_run | about_lora}
        kept |= {"learning_rate": self.rate, "num_train_epochs": self.epochs}
        if self.lora:
            kept |= {"lora_alpha": self.alpha, "lora_target": list(self.lora_target) or "all-linear"}
        return kept


_Range = tuple[Callable[[float], bool], str]
_POSITIVE: _Range = (lambda value: value > 0, "a number above 0")
_AT_LEAST_ZERO: _Range = (lambda value: value >= 0, "0 or more")
_COUNT: _Range = (lambda value: value >= 1, "1 or more")

_RANGES: dict[str, _Range] = {
    "block_size": (lambda value: value >= 2, "2 tokens or more"),
    "learning_rate": _POSITIVE,
    "num_train_epochs": _POSITIVE,
    "max_steps": _COUNT,
    "until_loss": (lambda value: value > 0, "a loss above 0, in nats a token, as in --until-loss 0.5"),
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
    "seed": (lambda value: 0 <= value < 2**32, "between 0 and 4294967295"),
    "save_steps": _COUNT,
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
