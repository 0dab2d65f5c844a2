"""The rule of a sweep from its options: what is made of them, and what is refused before anything is loaded."""

from __future__ import annotations

import math

import pytest

from taskarith.errors import UsageError
from taskarith.sweeps.rule import Rule, TextScore
from taskarith.sweeps.rule_options import make_rule

BOTH = {"forget": "a.txt", "forget_too": "b.txt", "kept": "c.txt"}


def test_rules_are_made_of_what_is_given():
    assert make_rule("m", BOTH, None, None, None) == Rule()
    assert make_rule("m", BOTH, None, None, 0.1) == Rule(budget=0.1)
    assert make_rule("m", BOTH, "r", None, 0.1) == Rule(budget=0.1)
    assert make_rule("m", BOTH, None, 3.0, None) == Rule({"forget": TextScore(3.0), "forget_too": TextScore(3.0)})


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        (BOTH, (None, math.nan, None), "--target nan is not finite"),
        (BOTH, (None, None, math.inf), "--budget inf is not finite"),
        (BOTH, (None, 1.0, 0.1), "two different rules"),
        ({"kept": "c.txt"}, (None, None, 0.1), "there is no forget set"),
        ({"forget": "c.txt"}, (None, None, 0.1), "there is no retain set"),
        ({}, (None, None, None), "there is no forget set"),
        (BOTH, ("m", None, None), "the reference is the model itself"),
        (BOTH, ("r", 1.0, None), "two different levels"),
    ],
)
def test_what_contradicts_is_refused(data, given, words):
    with pytest.raises(UsageError, match=words):
        make_rule("m", data, *given)
