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
    assert batch["weights"].tolist() == [1.0, 0.5]
