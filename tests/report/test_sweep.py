"""A sweep as people read it: a row for each edit, and what was chosen and why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.report.sweep import sweep_remarks, sweep_table


def row(alpha):
    loss = Estimate(1.0 + alpha, None, None, 4)
    return SimpleNamespace(
        name=f"m | alpha {alpha:g}", alpha=alpha, forget=loss, keep=loss, rise=Estimate(alpha, -1, 1, 4)
    )


def sweep(**more):
    """Return a sweep of three edits, with what a table and the remarks look at."""
    rows = tuple(map(row, (0.0, 0.5, 1.0)))
    rouge = {"rouge_l_f1": Estimate(0.25, None, None, 4)}
    scores = SimpleNamespace(by_text={one.name: {"forget": rouge, "kept": {}} for one in rows})
    found = {"chosen": 1, "reason": "it is the first", "holds": True, "cliff": 2, "front": (0, 1)}
    halves = SimpleNamespace(single=())
    return SimpleNamespace(**{"rows": rows, "scores": scores, "halves": halves, **found, **more})


def test_every_edit_is_a_row_with_its_marks():
    (table,) = sweep_table(sweep())
    assert table.columns == ("edit", "forget loss", "ROUGE-L", "retain loss", "rise", "")
    assert table.rows[0] == ("alpha 0", "1.000", "0.250", "1.000", "+0.000 [-1.000, +1.000]", "front")
    assert [one[-1] for one in table.rows] == ["front", "front, chosen", "cliff"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ["chosen: it is the first"]),
        ({"chosen": None}, ["nothing chosen: it is the first"]),
        (
            {"holds": False, "missed": ("a", "b")},
            ["chosen", "on samples that were not used to choose, it does not hold (a; b)"],
        ),
        ({"chosen": 2}, ["chosen", "at or beyond the cliff at alpha 1"]),
        ({"halves": SimpleNamespace(single=("forget",))}, ["chosen", "only one sample or prompt: forget"]),
    ],
)
def test_what_was_chosen_is_said_with_what_stands_against_it(changed, words):
    remarks = sweep_remarks(sweep(**changed))
    assert len(remarks) == len(words)
    assert all(word in remark for word, remark in zip(words, remarks, strict=True))
