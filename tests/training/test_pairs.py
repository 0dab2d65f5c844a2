"""Rows to be forgotten and the rows to be kept beside them."""

from __future__ import annotations

from collections import Counter

import pytest
from transformers import TrainingArguments

from taskarith.data.tokens import Sample
from taskarith.training.examples import Example
from taskarith.training.pairs import Pairs, RowCollator, epochs_of, partners


@pytest.mark.parametrize(("forgotten", "retained"), [(7, 3), (3, 7), (4, 4), (5, 1)])
def test_retain_rows_are_drawn_as_often_as_each_other_and_anew_in_each_epoch(forgotten, retained):
    epochs = [partners(forgotten, retained, 1, epoch) for epoch in range(9)]
    for drawn in epochs:
        counts = Counter(drawn)
        assert len(drawn) == forgotten
        assert counts.keys() <= {*range(retained)}
        assert max(counts.values()) <= -(-forgotten // retained)
        assert len(counts) == min(forgotten, retained)
    assert epochs == [partners(forgotten, retained, 1, epoch) for epoch in range(9)]
    assert retained == 1 or len({*map(tuple, epochs)}) > 1
    assert retained == 1 or epochs != [partners(forgotten, retained, 2, epoch) for epoch in range(9)]


def test_nothing_is_drawn_without_retain_rows():
    assert partners(3, 0, 1, 0) == []
    assert len(Pairs([Example(Sample("a", (1, 2), 0))], [], 1)[0]) == 1


def test_a_batch_has_rows_to_be_forgotten_before_their_retain_rows():
    forgotten = [Example(Sample(str(n), (n, n, n), 1)) for n in range(3)]
    retained = [Example(Sample(str(n), (n, n), 0), retained=True) for n in (10, 11)]
    pairs = Pairs(forgotten, retained, 5)
    pairs.begin(4)
    drawn = partners(3, 2, 5, 4)
    batch = RowCollator(0)([pairs[2], pairs[0]])
    assert batch["retained"].tolist() == [False, False, True, True]
    assert batch["rows"].tolist() == [2, 0, drawn[2], drawn[0]]
    assert batch["input_ids"][:, 0].tolist() == [2, 0, 10 + drawn[2], 10 + drawn[0]]
    assert "weights" not in batch


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"num_train_epochs": 3}, 3),
        ({"num_train_epochs": 2.5}, 3),
        ({"max_steps": 3}, 1),
        ({"max_steps": 4}, 2),
        ({"max_steps": 4, "gradient_accumulation_steps": 3}, 4),
        ({"max_steps": 4, "gradient_accumulation_steps": 2}, 2),
    ],
)
def test_epochs_are_those_that_are_begun(tmp_path, options, epochs):
    """11 rows are 3 batches of 4."""
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none", **options
    )
    assert epochs_of(arguments, 11) == epochs
