"""Attacks as people read them."""

from __future__ import annotations

import re

import pytest
from attacking import compared

from taskarith.attacks.recovery import Cell, Outcome
from taskarith.attacks.result import AttackResult
from taskarith.report.attacks import attack_remarks, attack_tables


def result_of(outcomes):
    untouched = {"edited": {"loss": 4.0}, "before": {"loss": 1.0}, "retain": {"loss": 3.7}}
    models = {"edited": "e", "before": "b", "retain": "r"}
    return AttackResult(models, untouched, tuple(outcomes), (), ("x: needs y",), [])


def test_what_people_read():
    def found(attack, name, steps, view, loss, never):
        share, ends = (loss - 4.0) / -3.0, (-0.5, 0.114)
        cell = Cell(loss, never, share, (loss - never) / -3.0, None, None, ends, ends, n=8)
        return Outcome(attack, name, view, steps, {"loss": 1.0}, {"loss": cell}, 8)

    views = [("held out", 0), ("held out", 2), ("held out", 4), ("all", 0), ("all", 2), ("all", 4)]
    outcomes = [found("none", "edited", 0, "all", 4.0, 3.7), found("quantise", "int4", 0, "all", 4.3, 4.0)]
    outcomes += [found("relearn", "forget text", steps, view, 4.0 - steps / 4, 3.7) for view, steps in views]
    (table,) = attack_tables(result_of(outcomes))
    assert table.title == "e under attack, by loss"
    assert table.columns == ("attack", "samples", "loss", "never", "back", "95%", "beyond", "95%")
    assert [row[:5] for row in table.rows] == [
        ("before the edit", "8", "1.000", "-", "-"),
        ("edited", "8", "4.000", "3.700", "0%"),
        ("quantise: int4", "8", "4.300", "4.000", "-10%"),
        ("relearn: 2 steps, held out", "8", "3.500", "3.700", "17%"),
        ("relearn: 4 steps, held out", "8", "3.000", "3.700", "33%"),
        ("relearn: 4 steps, all", "8", "3.000", "3.700", "33%"),
    ]
    assert table.rows[1][5:] == ("-50% to 11%", "-10%", "-50% to 11%")


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        (
            [("weak", 0.1, 12), ("strong", 0.6, 12)],
            r"by loss the strongest of 2 attacks is quantise: strong: 2\d% beyond",
        ),
        (
            [("one", 0.0, 12), ("two", 0.0, 7)],
            r"none of 1 attacks is shown to recover anything; .*; 1 more are based on f",
        ),
        ([("strong", 0.9, 7)], r"by loss no attack is named strongest: at most 7 samples count, 8 are needed"),
    ],
)
def test_the_sentence_of_the_strongest_attack(outcomes, sentence):
    found = [compared(name, shift, n) for name, shift, n in outcomes]
    remarks = attack_remarks(result_of(found))
    assert re.search(sentence, remarks[0]), remarks
    assert remarks[-1] == "x: needs y"


def test_without_a_gap_the_reason_is_told():
    known = Outcome("quantise", "int4", "all", 0, {"loss": 1.0}, {"loss": Cell(4, 4, None, None, lacking="why")}, 8)
    assert attack_remarks(result_of([known]))[0] == "no shares by loss: why"
