"""A cache whose rows end at columns of their own: what is written, read and copied."""

from __future__ import annotations

import torch

from taskarith.evaluation.slots import Place, Slots


def states(rows, width, start):
    """Keys of shape (rows, 1 head, width, 2) whose values are their number."""
    return torch.arange(start, start + rows * width).reshape(rows, 1, width, 1).expand(-1, -1, -1, 2).float()


def test_rows_are_written_where_they_end_and_read_from_the_first_column():
    place = Place(3, 6)
    layer = Slots(place)
    place.put([0, 1], torch.tensor([[0, 1], [0, 1]]), 2)
    keys, values = layer.update(states(2, 2, 1), states(2, 2, 11))
    assert keys[:, 0, :, 0].tolist() == [[1, 2], [3, 4]]
    assert values[:, 0, :, 0].tolist() == [[11, 12], [13, 14]]
    assert layer.get_seq_length() == 0
    place.put([0, 1], torch.tensor([[1], [2]]), 3)  # of the first row one token is written over
    keys, _ = layer.update(states(2, 1, 21), states(2, 1, 31))
    assert keys[:, 0, :, 0].tolist() == [[1, 21, 0], [3, 4, 22]]
    assert layer.get_seq_length() == 2


def test_any_rows_can_be_read_and_copied():
    place = Place(3, 4)
    layer = Slots(place)
    place.put([2, 0], torch.tensor([[0, 1], [0, 1]]), 2)
    keys, _ = layer.update(states(2, 2, 1), states(2, 2, 11))
    assert keys[:, 0, :, 0].tolist() == [[1, 2], [3, 4]]
    layer.copy(2, 1, 1)
    place.put([0, 1, 2], torch.tensor([[2], [1], [2]]), 3)
    keys, values = layer.update(states(3, 1, 21), states(3, 1, 31))
    assert keys[:, 0, :, 0].tolist() == [[3, 4, 21], [1, 22, 0], [1, 2, 23]]
    assert values[:, 0, :, 0].tolist() == [[13, 14, 31], [11, 32, 0], [11, 12, 33]]


def test_a_layer_that_was_never_written_has_nothing_to_copy():
    Slots(Place(2, 2)).copy(0, 1, 1)
