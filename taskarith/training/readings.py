"""What a model says of a batch of rows: the numbers that objectives of forgetting are functions of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from taskarith.training.examples import IGNORED
from taskarith.training.hidden_states import capture
from taskarith.training.objectives import ascent
from taskarith.training.token_loss import token_losses

__all__ = ["Readings", "read_rows", "select"]


@dataclass(frozen=True)
class Readings:
    """Numbers of rows, float32; tokens are counted from the second, as the first has no context.

    :param learned: Bool, of shape (rows, tokens): not of the prompt or the padding.
    :param log_p: Log-probability of the true tokens, of that shape; 0 where not learned.
    :param logits: Of shape (rows, tokens, vocabulary).
    :param states: Hidden states of the true tokens after a layer, of shape (rows, tokens, size), or nothing.
    """

    learned: torch.Tensor
    log_p: torch.Tensor
    logits: torch.Tensor
    states: torch.Tensor

    def of(self, chosen: torch.Tensor) -> Readings:
        """Return those of some rows: a bool for each."""
        states = self.states[chosen] if len(self.states) else self.states
        return Readings(self.learned[chosen], self.log_p[chosen], self.logits[chosen], states)

    @property
    def is_learned(self) -> torch.Tensor:
        """Whether anything of a row is learned: bool, of shape (rows,)."""
        return self.learned.any(1)

    def loss_and_count(self) -> torch.Tensor:
        """Return the sum of the losses of all tokens, and their number: float32, on the CPU."""
        return torch.stack([-self.log_p.detach().sum(), self.learned.sum()]).cpu()

    def compared(self, kind: str) -> torch.Tensor:
        """Return what an objective compares with the base: see ``Objective.reference``.

        :return: Of shape (rows,), or (rows, tokens, vocabulary or size).
        """
        if kind == "sequences":
            return ascent(self.log_p, self.learned)
        return self.logits.log_softmax(2) if kind == "vocabulary" else self.states


def read_rows(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], layer: torch.nn.Module | None, **more: Any
) -> Readings:
    """Run a model on a batch.

    :param model: As it is called in training.
    :param batch: From ``RowCollator``, on the model's device.
    :param layer: Whose hidden states are wanted, if any.
    :param more: For the model.
    """
    with capture(layer) as states:
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **more)
    labels = batch["labels"][:, 1:]
    logits = outputs.logits[:, :-1].float()
    losses = token_losses(outputs.logits, batch["labels"])
    found = states[0][:, 1:].float() if states else torch.empty(0)
    return Readings(labels != IGNORED, -losses, logits, found)


def select(batch: Mapping[str, torch.Tensor], chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return some rows of a batch: a bool for each."""
    return {name: values[chosen] for name, values in batch.items()}
