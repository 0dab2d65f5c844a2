"""Every number has its convention in words."""

from __future__ import annotations

import json

from scoring import KNOWN, UNKNOWN, losses, run, write

from taskarith.evaluation.records import answer_record, divergence_record


def test_json_names_the_conventions_of_its_numbers_only(tmp_path):
    records = losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN)
    records += [answer_record("e", "qa", "0", 1, 1, [2]), divergence_record("e", "forget", "0", "base", 1.0, 1, 2)]
    result = run(write(tmp_path / "r.jsonl", records), "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert list(found) == ["models", "texts", "scores", "overall", "missing", "remarks", "conventions"]
    assert found["scores"]["e"]["forget"]["loss"]["n"] == 3
    assert set(found["conventions"]) == {
        *("loss", "perplexity", "accuracy", "exact_memorisation", "extraction_strength", "probability", "truth_ratio"),
        *("truth_probability", "kl", "agreement", "auc", "auc_loss", "auc_zlib", "auc_min", "intervals", "seeds"),
    }
