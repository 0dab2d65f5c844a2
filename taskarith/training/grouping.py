"""An order of rows in which those of a batch have similar lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

__all__ = ["LengthOrder"]


class LengthOrder(LengthGroupedSampler):
    """transformers' order of similar lengths, drawn from the seed and the epoch alone.

    Its own generator would be torch's, whose state depends on what else is drawn: on dropout, the number of processes,
    and whether a run was resumed.

    :param lengths: Tokens of each row.
    :param rows: Rows of an optimizer step of all processes, which are similar.
    :param seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], rows: int, seed: int) -> None:
        self._seed, self._draw = seed, torch.Generator()
        super().__init__(rows, lengths=list(lengths), generator=self._draw)
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Draw anew for an epoch."""
        draw = random.Random(f"{self._seed} {epoch}")  # noqa: S311  (no secret: it is to be repeated)
        self._draw.manual_seed(draw.getrandbits(32))
