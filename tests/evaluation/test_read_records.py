"""Records are read whole, or refused by name."""

from __future__ import annotations

import math

import pytest
from scoring import KNOWN, UNKNOWN, losses, run, write

from taskarith.errors import DataError, UsageError
from taskarith.evaluation.metrics.membership import privleak
from taskarith.evaluation.score import score


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"nll": math.nan}, "loss has no finite nll: s1 of forget by e"),
        ({"nll": None}, "loss has no finite nll"),
        ({"tokens": 0}, "no tokens"),
        ({"correct": 4}, "more correct ones than tokens"),
        ({"token_losses": [1, 2]}, "not one per token"),
        ({"token_losses": [1, 2, math.inf]}, "not finite"),
        ({"hits": "110"}, "hits that contradict"),
        ({"zlib_bytes": 0}, "no valid zlib_bytes"),
        ({"sample": "s0"}, "loss occurs twice: s0 of forget by e"),
        ({"sample": 7}, "record 2 of .* lacks sample"),
        ({"kind": "smell"}, "unknown kind 'smell'"),
        ({"kind": "answer"}, "answer has no finite loss"),
        ({"kind": "continuation"}, "lacks reference or continuation"),
        ({"kind": "divergence"}, "no reference"),
        ({"kind": "lens"}, "lens has no finite losses of layers"),
        ({"kind": "lens", "nll": []}, "no finite losses of layers"),
        ({"kind": "lens", "nll": [1.0, math.nan]}, "no finite losses of layers"),
        ({"kind": "lens", "nll": [1.0], "tokens": 0}, "lens has no valid count of tokens"),
        ({"kind": "lens", "unreadable": 7}, "no reason why layers cannot be read"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused_by_name(tmp_path, spoil, words):
    records = losses("e", "forget", KNOWN)
    records[1] |= spoil
    with pytest.raises(DataError, match=words):
        score([write(tmp_path / "r.jsonl", records)])


def test_files_that_are_no_records_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.jsonl").write_text('{"kind": "loss", "mo')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    for name, words in {
        "empty.jsonl": "contains no records",
        "cut.jsonl": "not a file of JSON lines",
        "list.jsonl": "line 1 of .* is not a record",
        "other.json": "logs of unknown names: a",
        "list.json": "has no logs",
        "deep.jsonl": "not a file of JSON lines",
        "deep.json": "is not JSON",
        "bytes.jsonl": "not a file of JSON lines",
        "folder": "does not contain records",
        "absent": "there are no records at",
    }.items():
        with pytest.raises(DataError, match=words):
            score([tmp_path / name])
        assert run(tmp_path / name).exit_code == 1


def test_the_retain_model_may_be_among_the_records(tmp_path):
    both = losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN)
    both += losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN)
    paths = [write(tmp_path / f"{n}.jsonl", both) for n in range(2)]
    found = score(paths[:1], reference="r")
    assert found.overall["e"]["privleak"].value == pytest.approx(privleak(7 / 9, 1 / 2))
    assert found.overall["r"]["privleak"].value == 0
    seeds = score(paths, reference="r", seeds=True).overall["e"]["privleak"]
    assert (seeds.value, seeds.spread) == (pytest.approx(privleak(7 / 9, 1 / 2)), 0)


def test_retain_records_of_several_models_are_refused(tmp_path):
    two = write(tmp_path / "2.jsonl", losses("a", "forget", KNOWN) + losses("b", "forget", KNOWN))
    with pytest.raises(UsageError, match="several models: a, b"):
        score([two], reference=two)
    with pytest.raises(UsageError, match="no records are given"):
        score([])
