"""What is read from the outputs of stages."""

from __future__ import annotations

import json

import pytest
from sweeping import KNEW, NEVER, rows_of

from taskarith.errors import DataError
from taskarith.evaluation.results import write_results
from taskarith.unlearning.findings import read_choice, read_known


def evaluated(folder, *records):
    write_results(folder, {}, [record for one in records for record in one])
    return folder


def losses(name, numbers, text="forget"):
    return rows_of(name, numbers, [], text)


@pytest.mark.parametrize(("never", "shown"), [(NEVER[0], True), (KNEW[0], False)])
def test_a_reference_shows_whether_the_text_is_known(tmp_path, never, shown):
    folder = evaluated(tmp_path, losses("tuned", KNEW[0]), losses("base", never))
    known = read_known(folder, "tuned", "base", None)
    assert known.is_shown is shown
    assert known.level is None


@pytest.mark.parametrize(("unseen", "shown"), [(NEVER[0], True), (KNEW[0], False), ([0.1, 3.0, 0.2, 2.0], False)])
def test_unseen_text_shows_it_if_the_intervals_are_apart(tmp_path, unseen, shown):
    rows = losses("tuned", KNEW[0]) + [one for one in losses("tuned", unseen, "holdout") if one["text"] == "holdout"]
    known = read_known(evaluated(tmp_path, rows), "tuned", None, "unseen.txt")
    assert known.is_shown is shown
    assert known.level == pytest.approx(sum(unseen) / 4)


def test_without_either_nothing_is_said(tmp_path):
    known = read_known(evaluated(tmp_path, losses("tuned", KNEW[0])), "tuned", None, None)
    assert known.is_shown is None
    assert "nothing to compare" in known.sentence


@pytest.mark.parametrize("count", [1, 3])
def test_a_text_of_a_few_words_is_refused(tmp_path, count):
    folder = evaluated(tmp_path, losses("tuned", KNEW[0][:count]))
    with pytest.raises(DataError, match=f"has {count} block"):
        read_known(folder, "tuned", None, None)


def swept(folder, rows, level, recommended=None):
    values = [
        {"alpha": alpha, "forget_loss": {"value": forget}, "keep_loss": {"value": keep}} for alpha, forget, keep in rows
    ]
    level = None if level is None else {"forget": {"loss": level, "rouge": None}}
    chosen = None if recommended is None else {"alpha": recommended}
    found = {
        "rows": values,
        "recommended": chosen,
        "reason": "why",
        "level": level,
        "holds_on_held_out": recommended is not None,
    }
    (folder / "results.json").write_text(json.dumps(found))
    return folder


ROWS = [(0, 0.3, 0.2), (1, 3.0, 0.5), (2, 5.0, 3.5)]


@pytest.mark.parametrize(
    ("level", "compromise"),
    [(4.0, 1.0), (100.0, 1.0), (0.3, None), (None, None)],
    ids=["near", "far", "known no better", "budget"],
)
def test_the_best_compromise(tmp_path, level, compromise):
    choice = read_choice(swept(tmp_path, ROWS, level))
    assert choice.alpha is None
    assert choice.compromise == compromise
    assert choice.trade_off == tuple(ROWS)


def test_what_the_rule_chose(tmp_path):
    choice = read_choice(swept(tmp_path, ROWS, 4.0, 2.0))
    assert (choice.alpha, choice.holds) == (2.0, True)


@pytest.mark.parametrize("text", ["{}", '{"recommended": null, "rows": [{}]}', '{"recommended": 1, "rows": []}'])
def test_broken_results_are_said(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match="broken"):
        read_choice(tmp_path)
