"""Examples and their batches: what has labels, and what is padded."""

from __future__ import annotations

import pytest

from taskarith.data.tokens import Sample
from taskarith.training.examples import Collator, Example

pytestmark = pytest.mark.usefixtures("one_thread")


def test_only_completions_have_labels():
    batch = Collator(pad_id=7, weighted=True)(
        [Example(Sample("a", (1, 2, 3, 4), 2)), Example(Sample("b", (5, 6), 0), weight=0.5)]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 3, 4], [-100, 6, -100, -100]]
    assert batch["weights"].tolist() == [[1, 1, 1, 1], [0.5, 0.5, 0, 0]]
    assert "position_ids" not in batch


def test_packed_samples_keep_their_positions_weights_and_labels(monkeypatch):
    monkeypatch.setattr("taskarith.training.examples.lay_out", lambda lengths: [[0], [1, 2]][: len(lengths)])
    examples = [
        Example(Sample("a", (1, 2, 3, 4, 5), 2)),
        Example(Sample("b", (6, 7), 0), weight=0.5, retained=True),
        Example(Sample("c", (8, 9), 1)),
    ]
    batch = Collator(pad_id=0, weighted=True, packing=True)(examples)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 3, 4, 5], [-100, 7, -100, 9, -100]]
    assert batch["weights"].tolist() == [[1, 1, 1, 1, 1], [0.5, 0.5, 1, 1, 0]]
    assert batch["retained"].tolist() == [[False] * 5, [True, True, False, False, False]]
