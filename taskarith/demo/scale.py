"""The texts of the demo, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskarith.evaluation.score import Number

__all__ = ["FULL", "QUICK", "TEXTS", "Scale", "Scores"]

TEXTS = {"forgotten": "saga_1.txt", "aligned": "saga_2.txt", "irrelevant": "manual.txt"}
"""Role of each text in the experiment, and its file."""

Scores = Mapping[str, Mapping[str, Number]]
"""Numbers by text and name."""


@dataclass(frozen=True)
class Scale:
    """The size of the demo.

    :param characters: Characters of each text to use; None for all.
    :param block_size: Tokens per training block.
    :param measured_block_size: Tokens per block whose loss is measured: intervals need more blocks than training.
    :param batch_size: Blocks per step; 1 gives the most steps for the same work.
    :param epochs_all: Epochs on all three texts.
    :param epochs_one: Epochs on a single text, for its vector.
    :param learning_rate: Learning rate of full fine-tuning; LoRA uses 15 times as much.
    :param alphas: Coefficients of the forgotten text's vector, ascending, including 0 and 1.
    :param prompts: Continuations per text.
    :param prompt_tokens: Tokens per prompt.
    :param continuation_tokens: Tokens per continuation.
    """

    characters: int | None = None
    block_size: int = 272  # each text is four blocks
    measured_block_size: int = 68
    batch_size: int = 1
    epochs_all: int = 4
    epochs_one: int = 4
    learning_rate: float = 3e-4
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.875, 1.0)
    prompts: int = 16
    prompt_tokens: int = 32
    continuation_tokens: int = 32


FULL = Scale()
QUICK = Scale(
    characters=800,
    block_size=48,  # each text is about four blocks
    measured_block_size=24,
    batch_size=2,
    epochs_all=5,
    epochs_one=5,
    learning_rate=6e-4,
    alphas=(0.0, 0.5, 0.8, 1.0),
    prompts=6,
    prompt_tokens=12,
    continuation_tokens=12,
)
