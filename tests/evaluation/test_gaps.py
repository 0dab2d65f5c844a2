"""A number that cannot be calculated is a named gap."""

from __future__ import annotations

import json

from scoring import KNOWN, UNKNOWN, losses, run, write

from taskarith.evaluation.score import score


def test_a_number_that_cannot_be_calculated_is_a_named_gap(tmp_path):
    """PrivLeak divides by zero where the retain model parts both sides; what else was measured is there."""
    edited = write(tmp_path / "e.jsonl", losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN))
    easy, hard = [[0.1, 0.1]] * 3, [[5.0, 5.0]] * 3
    retain = write(tmp_path / "r.jsonl", losses("r", "forget", easy) + losses("r", "holdout", hard))
    result = run(edited, "--reference", retain, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["missing"]["e"].keys() == {"auc_gradient", "tpr", "privleak"}
    assert found["missing"]["e"]["privleak"].startswith(
        "cannot be calculated: the retrained model separates the forget set"
    )
    assert "PrivLeak (MUSE): cannot be calculated: the retrained model" in " ".join(result.stderr.split())
    zero = write(tmp_path / "z.jsonl", losses("z", "forget", [[0.0]] * 3) + losses("z", "holdout", [[0.0]] * 3))
    assert score([edited], reference=zero).missing["e"].keys() == {"auc_gradient", "tpr", "auc_reference"}
