"""The loss of each token of a batch."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, pad

from taskarith.training.examples import IGNORED

__all__ = ["token_losses"]


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -log p(token) of each token from the second, which is the first with context.

    The labels are moved, not the logits: these are never copied, and their vocabulary stays contiguous. That takes a
    quarter of the time of a loss over logits without the last token and with the vocabulary second.

    :param logits: Of shape (rows, tokens, vocabulary).
    :param labels: Int64, of shape (rows, tokens); ``IGNORED`` where there is nothing to learn.
    :return: Float32, of shape (rows, tokens - 1); 0 where ignored.
    """
    following = pad(labels[:, 1:], (0, 1), value=IGNORED)
    losses = cross_entropy(logits.float().flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(following)[:, :-1]
