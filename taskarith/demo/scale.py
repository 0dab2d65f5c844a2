"""How long and how finely the demo works, and the texts that it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskarith.evaluation.score import Number

__all__ = ["FULL", "QUICK", "TEXTS", "Scale", "Scores"]

TEXTS = {"forgotten": "saga_1.txt", "aligned": "saga_2.txt", "irrelevant": "manual.txt"}
"""What each text is in the experiment, and its file beside this module."""

Scores = Mapping[str, Mapping[str, Number]]
"""Text, then name, to number."""


@dataclass(frozen=True)
class Scale:
    """How long and how finely the demo works.

    :param characters: Of each text that are used; None uses all.
    :param block_size: Tokens of a block that is learned.
    :param measured_block_size: Tokens of a block whose loss is measured: intervals need more blocks than training.
    :param batch_size: Blocks of a step: one gives the most steps for the same work.
    :param epochs_all: Passes over all three texts.
    :param epochs_one: Passes over a single text, for its vector.
    :param learning_rate: Of full fine-tuning; LoRA takes 15 times as much.
    :param alphas: What the vector of the forgotten text is multiplied by, ascending, 0 and 1 among them.
    :param prompts: Continuations of each text.
    :param prompt_tokens: Tokens of a prompt.
    :param continuation_tokens: Tokens of a continuation.
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
