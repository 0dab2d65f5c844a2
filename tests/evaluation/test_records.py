"""Records keep what numbers need, to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scoring import KNOWN, losses, write

from taskarith.evaluation.records import loss_record, token_fields
from taskarith.evaluation.score import score


@pytest.mark.parametrize("lacking", ["hits", "end_tokens"])
def test_records_of_an_older_version_lack_numbers_of_their_text(tmp_path, lacking):
    records = losses("e", "forget", KNOWN)
    del records[1][lacking]
    found = score([write(tmp_path / "r.jsonl", records)])
    assert "loss" in found.by_text["e"]["forget"]
    assert "extraction_strength" not in found.by_text["e"]["forget"]
    assert found.missing["e"]["extraction_strength of forget"].startswith(f"needs {lacking} in every loss record")


def test_token_losses_are_kept_to_the_last_bit_of_float32():
    values = np.random.default_rng(1).exponential(2, size=500).astype(np.float32)
    kept = json.loads(json.dumps(loss_record("m", "t", "s", 1.0, 500, 0) | token_fields(losses=values)))["token_losses"]
    assert np.array_equal(np.asarray(kept, dtype=np.float32), values)
    assert max(len(str(value)) for value in kept) <= 14
