"""Numbers of texts from their records, by hand."""

from __future__ import annotations

import json
import math

import pytest
from evaluating import scores_of
from scoring import UNKNOWN, losses, write

from taskarith.evaluation.records import continuation_record, divergence_record
from taskarith.evaluation.score import score
from taskarith.report.scores import score_tables


def record(nll, tokens, correct, sample="s"):
    return {
        "kind": "loss",
        "model": "m",
        "text": "t",
        "sample": sample,
        "nll": nll,
        "tokens": tokens,
        "correct": correct,
    }


def test_tokens_weigh_the_same_whichever_sample_they_are_in():
    found = scores_of(record(6.0, 3, 1), record(1.0, 1, 1, "r")).by_text["m"]["t"]
    assert (found["loss"].value, found["perplexity"].value) == (1.75, math.exp(1.75))
    assert found["accuracy"].value == 0.5
    assert found.keys() == {"loss", "perplexity", "accuracy"}  # the others need more of a record


def test_an_overflowing_perplexity_is_infinite_and_null_in_json():
    scores = scores_of(record(8000.0, 10, 0))
    assert scores.by_text["m"]["t"]["perplexity"].value == math.inf
    written = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert written["scores"]["m"]["t"]["perplexity"]["value"] is None
    assert written["scores"]["m"]["t"]["loss"]["value"] == 800
    assert "inf" in score_tables(scores)[0].rows[0][2]


def test_end_tokens_are_left_out_where_the_sources_leave_them_out(tmp_path):
    """A model that knows every answer, and never ends it: extraction strength 1, as open-unlearning says."""
    rows = [[0.1, 0.2, 0.1, 9.0]] * 3
    records = losses("e", "forget", rows, end_tokens=1) + losses("e", "holdout", UNKNOWN)
    found = score([write(tmp_path / "r.jsonl", records)])
    forget = found.by_text["e"]["forget"]
    assert forget["extraction_strength"].value == forget["exact_memorisation"].value == 1
    assert forget["accuracy"].value == 0.75
    assert forget["loss"].value == pytest.approx(9.4 / 4)
    assert found.overall["e"]["auc_min_20"].value == 1
    assert found.overall["e"]["auc_loss"].value < 1


def test_divergence_is_by_token_and_by_reference(tmp_path):
    records = [
        divergence_record("e", "forget", "0", "base", 3.0, 1, 2),
        divergence_record("e", "forget", "1", "base", 1.0, 2, 2),
        divergence_record("e", "forget", "0", "retrained", 0.5, 2, 2),
    ]
    found = score([write(tmp_path / "r.jsonl", records)]).by_text["e"]["forget"]
    assert {name: number.value for name, number in found.items()} == {
        "kl from base": 1,
        "agreement with base": 0.75,
        "kl from retrained": 0.25,
        "agreement with retrained": 1,
    }


def test_texts_of_muse_give_its_numbers(tmp_path):
    records = [
        continuation_record("e", "verbmem", "0", "p", "one two three four", "one two three five"),
        continuation_record("e", "verbmem", "1", "p", "one two", "three four"),
        continuation_record("e", "knowmem_forget", "0", "q", "Ann", "Ann"),
    ]
    found = score([write(tmp_path / "r.jsonl", records)]).overall["e"]
    assert {name: number.value for name, number in found.items()} == {"verbmem": 37.5, "knowmem_forget": 100}
