"""Rows that are to be forgotten, each with a row to be kept beside it, and batches of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import torch
from transformers import TrainingArguments

from taskarith.training.examples import Collator, Example

__all__ = ["Pairs", "Row", "RowCollator", "epochs_of", "partners"]

Row = tuple[int, Example]
"""A row and its number among those to be forgotten, or among those to be kept."""


class Pairs:
    """A data set as long as the rows to be forgotten; each comes with a retain row, another one in each epoch.

    :param forgotten: Rows to be forgotten.
    :param retained: Rows to be kept; there may be none.
    :param seed: Of the draw of retain rows.
    """

    def __init__(self, forgotten: Sequence[Example], retained: Sequence[Example], seed: int) -> None:
        self.forgotten, self.retained, self.seed = forgotten, retained, seed
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Draw the retain rows of an epoch."""
        self._partners = partners(len(self.forgotten), len(self.retained), self.seed, epoch)

    def __len__(self) -> int:
        return len(self.forgotten)

    def __getitem__(self, number: int) -> list[Row]:
        pair = [(number, self.forgotten[number])]
        if self.retained:
            pair.append((self._partners[number], self.retained[self._partners[number]]))
        return pair


def partners(forgotten: int, retained: int, seed: int, epoch: int) -> list[int]:
    """Draw a retain row for each row to be forgotten: none a second time before every other one was drawn.

    :param forgotten: Number of rows to be forgotten.
    :param retained: Number of rows to be kept.
    :return: Numbers below ``retained``; nothing where that is 0.
    """
    draw = random.Random(f"{seed} {epoch}")  # noqa: S311  (no secret: it is to be repeated)
    drawn: list[int] = []
    while retained and len(drawn) < forgotten:
        drawn += draw.sample(range(retained), min(retained, forgotten - len(drawn)))
    return drawn


def epochs_of(arguments: TrainingArguments, forgotten: int) -> int:
    """Return how many epochs a training begins, at most.

    :param forgotten: Rows of an epoch.
    """
    if arguments.max_steps <= 0:
        return math.ceil(arguments.num_train_epochs)
    rows = arguments.per_device_train_batch_size * arguments.world_size
    steps = math.ceil(math.ceil(forgotten / rows) / arguments.gradient_accumulation_steps)
    return math.ceil(arguments.max_steps / steps)


class RowCollator:
    """Makes a batch of rows, those to be forgotten before those to be kept.

    :param pad_id: Token to pad with.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad = Collator(pad_id, weighted=True)

    def __call__(self, groups: Iterable[Sequence[Row]]) -> dict[str, torch.Tensor]:
        """Return what ``Collator`` does, with ``retained`` and the numbers ``rows``, int64, of shape (batch,)."""
        rows = sorted((row for group in groups for row in group), key=lambda row: row[1].retained)
        batch = self._pad([example for _, example in rows])
        del batch["weights"]
        return batch | {
            "retained": batch["retained"][:, 0],
            "rows": torch.tensor([number for number, _ in rows]),
        }
