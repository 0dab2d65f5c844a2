"""A cache of keys and values in which every row ends at a column of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicLayer

__all__ = ["Place", "Slots"]


class Place:
    """Where a forward pass writes, and how far it reads."""

    def __init__(self, slots: int, columns: int) -> None:
        self.shape = slots, columns
        self.until = self.width = 0

    def put(self, slots: Sequence[int], columns: torch.Tensor, until: int) -> None:
        """Set the slots, the columns of each, of shape (slots, width), and how many columns are read."""
        self.columns, self.width, self.until = columns, columns.shape[1], until
        self.are_first = list(slots) == list(range(len(slots)))
        device = columns.device  # to which nothing is copied for the first slots
        self.slots = torch.arange(len(slots), device=device) if self.are_first else torch.tensor(slots, device=device)


class Slots(DynamicLayer):
    """Keys and values of one layer, of shape (slots, heads, columns, size); slots end at different columns."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._kept: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens; return those of all tokens so far."""
        if not self._kept:  # masked columns are read, too, so that they must be numbers
            slots, columns = self._place.shape
            for states in (key_states, value_states):
                self._kept.append(states.new_zeros((slots, states.shape[1], columns, states.shape[3])))
        keys, values = self._kept
        return self._write(keys, key_states), self._write(values, value_states)

    def _write(self, kept: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        place, slots = self._place, self._place.slots.to(kept.device)
        kept[slots[:, None], :, place.columns.to(kept.device)] = states.transpose(1, 2)
        return kept[: len(slots), :, : place.until] if place.are_first else kept[slots, :, : place.until]

    def get_seq_length(self) -> int:
        """Return the number of columns before those of this forward pass."""
        return self._place.until - self._place.width

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first columns of a slot."""
        for kept in self._kept:
            kept[target, :, :count] = kept[source, :, :count]
